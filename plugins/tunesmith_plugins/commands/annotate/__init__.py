"""Command ``data annotate``: choose the better of two answers, to make preference data."""
