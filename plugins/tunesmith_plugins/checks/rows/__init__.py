"""Check ``rows``: look for faults in rows, all in one pass over the data."""
