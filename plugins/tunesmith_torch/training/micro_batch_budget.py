"""Limit the number of tokens in a micro-batch, and halve the limit if memory runs out.

On several ranks one of them may run out of memory, but all must compute again::

    rank 0   attempt, 8192 tokens   ok            waits | attempt, 8192 tokens   ok
    rank 1   attempt, 8192 tokens   out of memory       | attempt, 4096 tokens   ok

Micro-batches only divide the batch differently, so results stay the same
(:mod:`tunesmith_torch.training.loop`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tunesmith.contracts import Job
from tunesmith.errors import TrainingError
from tunesmith.events import FindingReported
from tunesmith.text import format_count
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.memory import is_out_of_memory

T = TypeVar("T")

MAX_HALVINGS = 3
"""Number of times that a run may halve its micro-batches after running out of memory."""


@dataclass
class Attempt:
    """One attempt at a computation with a token budget, as a ``with`` block.

    If memory runs out here or on another rank, the block ends early without an exception.
    """

    tokens: int
    """Maximum number of tokens in a micro-batch."""
    has_succeeded: bool = False
    is_out_of_memory: bool = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            # Results may be combined only after every rank has succeeded.
            with suppress(distributed.RecomputeBatch):
                distributed.all_gather_object(None)
                self.has_succeeded = True
            return True
        self.is_out_of_memory = isinstance(error, (MemoryError, RuntimeError)) and (
            is_out_of_memory(error)
        )
        return self.is_out_of_memory or isinstance(error, distributed.RecomputeBatch)


@dataclass
class MicroBatchBudget:
    """The token budget of a run's micro-batches; it only ever shrinks."""

    job: Job[Any]
    adapted: AdaptedModel
    tokens: int
    """Maximum number of tokens in a micro-batch at present."""
    step: int = 0
    """The current optimizer step, counted from 0; for messages."""
    halvings: int = 0
    """Number of times that this process has halved the budget."""

    def attempts(self) -> Iterator[Attempt]:
        """Yield attempts at a computation until one succeeds, halving the budget after failures.

        Each attempt must start over. Several ranks make their attempts together: if one runs out of
        memory, all compute again, and only that rank halves its budget. As a generator, this method
        stays out of the computation's traceback::

            for attempt in budget.attempts():
                with attempt:
                    result = compute(attempt.tokens)

        Raises:
            TrainingError: memory ran out even after :data:`MAX_HALVINGS` halvings.
        """
        while True:
            attempt = Attempt(self.tokens)
            yield attempt
            if attempt.has_succeeded:
                return
            if attempt.is_out_of_memory:
                # Not in Attempt.__exit__: the traceback keeps the activations until that returns.
                fused_lora.clear_caches(self.adapted.model)
                self._halve()
                with suppress(distributed.RecomputeBatch):
                    distributed.request_recompute()

    def run(self, compute: Callable[[int], T]) -> T:
        """Return ``compute(tokens)`` from the first attempt that succeeds.

        Raises:
            TrainingError: memory ran out even after :data:`MAX_HALVINGS` halvings.
        """
        for attempt in self.attempts():
            with attempt:
                result = compute(attempt.tokens)
        return result

    def _halve(self) -> None:
        self.halvings += 1
        if self.halvings > MAX_HALVINGS:
            raise TrainingError(
                f"step {self.step + 1}: memory ran out with micro-batches of "
                f"{format_count(self.tokens, 'token')}, after halving them {MAX_HALVINGS} times",
                hint=(
                    "set technique.gradient_checkpointing = true or a smaller "
                    "technique.max_length, or train adapters instead"
                ),
            )
        if self.adapted.base.model.device.type == "cuda":
            torch.cuda.empty_cache()
        self.tokens = max(1, self.tokens // 2)
        self.job.emit(
            FindingReported(
                level="warning",
                source="memory",
                message=(
                    f"step {self.step + 1}: memory ran out; continuing with micro-batches of "
                    f"{format_count(self.tokens, 'token')} (the batch size is unchanged)"
                ),
            )
        )
