"""Additions to the training, such as a loss term, which a table of the run file requests.

Techniques apply the additions. The core only passes them on and does not interpret them. Which
additions techniques can apply is defined in ``tunesmith_torch.training.additions``.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Addition:
    """An addition to the training, requested by a table of the run file."""

    build: Callable[[Any], Any]
    """Build the addition before the training or before each stage; import large libraries here.

    With the toolkit, ``build`` gets a ``tunesmith_torch.training.additions.AdditionContext`` and
    returns a ``TrainingAddition``.
    """
    data_parallel: bool = False
    """True if several processes that train together get the same result as a single process."""
    table: str = ""
    """Name of the table; the core sets it."""
    blame: Callable[[], AbstractContextManager[None]] = nullcontext
    """Return a context manager that names the plugin in unexpected errors; the core sets it."""
