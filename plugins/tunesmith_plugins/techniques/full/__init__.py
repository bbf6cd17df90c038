"""Technique ``full``: supervised fine-tuning of every weight."""
