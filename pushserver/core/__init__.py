"""Values and rules: no Twisted, no clock, no I/O."""
