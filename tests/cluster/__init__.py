"""Whole servers on one real Redis."""
