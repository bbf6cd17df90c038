"""The ``compare`` command: compare runs row by row."""
