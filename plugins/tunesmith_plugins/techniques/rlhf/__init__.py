"""The ``rlhf`` technique: supervised fine-tuning, a reward model, then policy optimization."""
