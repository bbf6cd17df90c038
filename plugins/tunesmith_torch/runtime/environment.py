"""Set torch's environment variables to values that suit training.

Importing the toolkit changes no variables. The ``build`` function of a technique's offer calls
:func:`prepare_environment` before it imports torch. This module does not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

from tunesmith.errors import EnvironmentProblem

__all__ = ["NO_DOCSTRINGS", "has_docstrings", "prepare_environment"]

# On a CPU, a kernel of half a megabyte is compiled for every shape of a matrix product. By default
# 1024 kernels are kept in each of two caches. Rows of different lengths add a hundred new shapes
# per step, and the kept kernels fragment the heap. A cache of 256 holds all kernels that a step
# uses again, and saves a gigabyte in the long run.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
)
"""Variables that torch reads when it is loaded or first used, with their values for training."""


NO_DOCSTRINGS = "python -OO removes docstrings, but transformers cannot be loaded without them"


def has_docstrings() -> bool:
    """Return False if Python was started with -OO."""
    return sys.flags.optimize < 2


def prepare_environment(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set the variables in :data:`DEFAULTS` that are unset; call this before importing torch.

    Raises:
        EnvironmentProblem: Python runs without docstrings.
    """
    if not has_docstrings():
        raise EnvironmentProblem(NO_DOCSTRINGS, hint="start Python without -OO or PYTHONOPTIMIZE=2")
    for name, value in DEFAULTS.items():
        variables.setdefault(name, value)
