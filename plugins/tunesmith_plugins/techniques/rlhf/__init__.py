"""Technique ``rlhf``: supervised fine-tuning, a reward model, then policy optimization."""
