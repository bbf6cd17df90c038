"""Seed the random number generators of all libraries."""

from __future__ import annotations

import random

import numpy
import torch

__all__ = ["seed_all"]


def seed_all(seed: int) -> None:
    """Seed the Python, NumPy and torch generators, whose states checkpoints store."""
    random.seed(seed)
    numpy.random.seed(seed)
    torch.manual_seed(seed)
