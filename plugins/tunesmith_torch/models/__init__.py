"""Load, quantize and adapt models, and merge and save their weights."""
