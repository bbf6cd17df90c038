"""Environment variables that torch reads, with better values for training.

Importing the toolkit changes no variable. The ``build`` function of a technique's offer calls
:func:`prepare_environment` before it imports torch; this module does not import torch.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

from tunesmith.errors import EnvironmentProblem

__all__ = ["NO_DOCSTRINGS", "has_docstrings", "prepare_environment"]

# On a CPU a kernel is compiled for every shape of a product and kept, half a megabyte each, 1024 of
# them in each of two caches. Ragged rows bring a hundred new shapes a step, and what is kept lies
# between activations: 256 hold all that a step uses again, and take a gigabyte less in the end.
DEFAULTS: Mapping[str, str] = MappingProxyType(
    {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "256", "LRU_CACHE_CAPACITY": "256"}
)
"""Variables that torch reads when it is loaded or first computes, and the values for training."""


NO_DOCSTRINGS = "python -OO removes docstrings, and transformers cannot be loaded without them"


def has_docstrings() -> bool:
    """Return False if Python was started with -OO."""
    return sys.flags.optimize < 2


def prepare_environment(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set those of :data:`DEFAULTS` that the user has not set; call it before torch is imported.

    Raises:
        EnvironmentProblem: Python runs without docstrings.
    """
    if not has_docstrings():
        raise EnvironmentProblem(NO_DOCSTRINGS, hint="start it without -OO and PYTHONOPTIMIZE=2")
    for name, value in DEFAULTS.items():
        variables.setdefault(name, value)
