"""The ``rows`` check: find faults in rows, in a single pass over the data."""
