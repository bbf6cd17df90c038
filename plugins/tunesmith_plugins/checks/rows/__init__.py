"""Check ``rows``: find faults in rows, in a single pass over the data."""
