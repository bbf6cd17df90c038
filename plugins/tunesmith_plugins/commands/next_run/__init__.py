"""Command ``next``: write the next iteration of a run, with more rows."""
