"""Slices: parts of the rows on which a model is worse than on the others."""
