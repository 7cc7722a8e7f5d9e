"""Who is connected, who gets what, and what is due."""
