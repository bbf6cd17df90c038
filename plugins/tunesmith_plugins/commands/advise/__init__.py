"""Command ``advise``: predict if fine-tuning is worth it, before paying for a full training run."""
