"""The length of the pilot runs that choose a learning rate. This module does not import torch."""

from __future__ import annotations

import math

from tunesmith_torch.options.training import AUTO, TrainingOptions

__all__ = ["MIN_TRAINING_STEPS", "PILOTS", "count_pilot_steps", "predict_pilot_steps"]

PILOTS = 3
"""Number of pilot runs, each with another learning rate."""
PILOT_SHARE = 0.04
"""Length of a pilot, as a share of the training."""
MIN_PILOT_STEPS, MAX_PILOT_STEPS = 16, 250
"""Minimum and maximum steps of a pilot; a shorter training limits its pilots to its own length."""
MIN_TRAINING_STEPS = 8
"""Minimum length of a training that is worth pilots."""


def predict_pilot_steps(options: TrainingOptions, steps: int) -> int:
    """Return the number of steps of all pilots in a run with validation rows; 0 without pilots."""
    if options.learning_rate != AUTO or steps < MIN_TRAINING_STEPS:
        return 0
    return PILOTS * count_pilot_steps(steps)


def count_pilot_steps(steps: int) -> int:
    """Return the number of steps of one pilot run, for a training with this number of steps."""
    share = math.ceil(PILOT_SHARE * steps)
    return min(steps, max(MIN_PILOT_STEPS, min(share, MAX_PILOT_STEPS)))
