"""Command ``data annotate``: choose the better of two answers to create preference data."""
