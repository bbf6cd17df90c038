"""Data loader ``jsonl``: read JSON Lines or a JSON array, also compressed."""
