"""Tiny models, helpers for exporter tests, and a plain training loop for comparisons."""
