"""Additions to the training, such as a loss term, that a run-file table requests.

Techniques apply the additions. The core only passes them on and does not interpret them. The module
``tunesmith_torch.training.additions`` defines which additions techniques can apply.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Addition:
    """An addition to the training, requested by a run-file table."""

    build: Callable[[Any], Any]
    """Build the addition before the training or before each stage; import large libraries here.

    With the toolkit, ``build`` gets a ``tunesmith_torch.training.additions.AdditionContext`` and
    returns a ``TrainingAddition``.
    """
    adapt: Callable[..., Any] | None = None
    """Add an adapter that differs from the technique's to the loaded base model.

    With the toolkit, ``adapt`` gets a ``LoadedBase``, a ``Precision``, the job and the initial
    model, and returns an ``AdaptedModel``. None: the technique chooses the weights.
    """
    data_parallel: bool = False
    """True if several processes that train together get the same result as one process."""
    table: str = ""
    """Name of the table that requests the addition; the core sets it."""
    blame: Callable[[], AbstractContextManager[None]] = nullcontext
    """Return a context manager that names the plugin in unexpected errors; the core sets it."""
