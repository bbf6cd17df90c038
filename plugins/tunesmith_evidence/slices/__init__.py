"""Find weak slices, which are groups of rows where a model is worse than on the other rows."""
