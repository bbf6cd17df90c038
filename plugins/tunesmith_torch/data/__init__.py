"""Records to token ids, and rows to micro-batches."""
