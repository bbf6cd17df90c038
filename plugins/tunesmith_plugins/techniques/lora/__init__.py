"""Technique ``lora``: low-rank adapters on frozen base weights."""
