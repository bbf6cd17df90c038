"""One seed for all random number generators."""

from __future__ import annotations

import random

import numpy
import torch

__all__ = ["seed_all"]


def seed_all(seed: int) -> None:
    """Seed the generators of Python, NumPy and torch, the ones that a checkpoint stores."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
