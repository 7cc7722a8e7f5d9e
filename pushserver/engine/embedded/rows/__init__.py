"""What the embedded engine keeps, as rows of SQLite (on the writer thread)."""
