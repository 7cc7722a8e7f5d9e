"""The native protocol: JSON messages over WebSocket and server-sent events."""
