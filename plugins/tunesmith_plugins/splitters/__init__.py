"""Built-in splitters: ways to divide the records into training, dev and held-out rows."""
