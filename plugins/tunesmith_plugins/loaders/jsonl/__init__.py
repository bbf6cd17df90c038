"""Data loader ``jsonl``: JSON Lines or a JSON array, also packed."""
