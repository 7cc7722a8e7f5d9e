"""The doors on the HTTP port: WebSocket, server-sent events, the server API, the page."""
