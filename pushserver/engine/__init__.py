"""The engine: where messages travel and rest; one contract, an embedded and a Redis implementation."""
