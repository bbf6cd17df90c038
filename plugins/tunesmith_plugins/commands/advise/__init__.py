"""Command ``advise``: predict whether tuning is worth it, before paying for the full training."""
