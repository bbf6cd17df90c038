"""Data loader ``jsonl``: read JSON Lines or a JSON array, from plain or compressed files."""
