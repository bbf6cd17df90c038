"""Command ``advise``: predict whether fine-tuning is worth it, before a full training run."""
