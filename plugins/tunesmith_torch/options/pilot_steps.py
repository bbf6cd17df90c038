"""The length of the pilot runs that choose a learning rate. This module does not import torch."""

from __future__ import annotations

import math

__all__ = ["MIN_TRAINING_STEPS", "PILOTS", "count_pilot_steps"]

PILOTS = 3
"""Number of pilot runs, each with another learning rate."""
PILOT_SHARE = 0.04
"""Length of a pilot, as a share of the training."""
MIN_PILOT_STEPS = 16
"""Minimum length of a pilot, except in a shorter training."""
MIN_TRAINING_STEPS = 8
"""Minimum length of a training that is worth pilots."""


def count_pilot_steps(steps: int) -> int:
    """Return the steps of one pilot run, for a training with this number of steps."""
    return min(steps, max(MIN_PILOT_STEPS, math.ceil(PILOT_SHARE * steps)))
