"""The configuration: how it is read, checked, and what it holds."""
