"""The wire: what travels between a client and this server, as values, JSON and frames."""
