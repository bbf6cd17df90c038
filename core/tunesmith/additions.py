"""Additions to a training, which tables of the run file ask for and techniques build.

The core finds them and passes them on, and knows nothing about their content:
``tunesmith_torch.training.additions`` defines what techniques that train with the toolkit accept.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Addition:
    """Something that a table of the run file adds to the training."""

    build: Callable[[Any], Any]
    """Builds it before the training, or before each stage; heavy libraries are imported inside.

    With the toolkit it gets a ``tunesmith_torch.training.additions.AdditionContext`` and returns a
    ``TrainingAddition``.
    """
    data_parallel: bool = False
    """True if several processes that train together get the same result as one."""
    table: str = ""
    """Name of the table; the core sets it."""
    blame: Callable[[], AbstractContextManager[None]] = nullcontext
    """Returns a context that names the plugin in unexpected errors; the core sets it."""
