"""Optimizer steps: AdamW on fp32 master weights, learning-rate schedule, order of the rows."""
