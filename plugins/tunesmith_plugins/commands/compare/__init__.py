"""Command ``compare``: compare runs row by row."""
