"""The ``advise`` command: predict whether fine-tuning is worth it, before a full training run."""
