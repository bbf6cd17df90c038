"""Tiny models and a plain training loop, for tests and comparisons."""
