"""Technique ``existing``: no training, a model that was fine-tuned elsewhere."""
