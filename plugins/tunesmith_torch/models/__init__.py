"""Load, quantize, adapt, merge and save models."""
