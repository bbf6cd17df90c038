"""A run, from the locked folder to the report."""
