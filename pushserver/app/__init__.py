"""The wiring: options and files become a configuration, and that becomes a tree of services."""
