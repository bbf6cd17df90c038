"""One seed for every random number generator."""

from __future__ import annotations

import random

import numpy
import torch


def seed_all(seed: int) -> None:
    """Start every generator that :func:`save` keeps, so that a restart begins as the start did."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
