"""What is promised, held while things break."""
