"""Commands ``tunesmith data ...``: look at data, check and split it, and repair its files."""
