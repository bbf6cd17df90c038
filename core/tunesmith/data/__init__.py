"""Subsets of the data, and the independent units in them."""
