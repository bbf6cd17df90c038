"""Commands ``tunesmith data ...``: look at data, check and split it, and fix its files."""
