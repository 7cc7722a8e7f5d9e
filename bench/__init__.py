"""The measurements: this server beside others that do the same work on the same machine. ``python -m bench``."""
