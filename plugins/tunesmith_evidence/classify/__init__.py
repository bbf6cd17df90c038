"""Classify texts without a language model."""
