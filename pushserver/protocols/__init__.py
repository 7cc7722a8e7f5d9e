"""The protocols that clients speak: messages, sessions and framing, without I/O."""
