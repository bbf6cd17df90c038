"""The number of tokens that a micro-batch may compute, halved if memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tunesmith.contracts import Job
from tunesmith.errors import TrainingError
from tunesmith.events import FindingReported
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.memory import is_out_of_memory

T = TypeVar("T")

MAX_HALVINGS = 3
"""Times that a run may halve its micro-batches after running out of memory."""


@dataclass
class Attempt:
    """One attempt at a computation with a token budget, as a ``with`` block.

    The block is left early, without an exception, if memory runs out, here or on another rank.
    """

    tokens: int
    """Tokens that a micro-batch may compute."""
    has_succeeded: bool = False
    is_out_of_memory: bool = False

    def __enter__(self) -> Attempt:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if error is None:
            # Wait until every rank has got this far: only then may results be combined.
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
    """Most tokens of a micro-batch now."""
    step: int = 0
    """The optimizer step that is computed now, counted from 0; for messages."""
    halvings: int = 0
    """Number of times that it was halved in this process."""

    def attempts(self) -> Iterator[Attempt]:
        """Yield attempts at a computation until one succeeds, with fewer tokens after each that
        runs out of memory.

        Each must start anew. With several ranks all of them make their attempts together; if memory
        runs out on one, all compute again, and only that rank halves. It is a generator, so that
        the computation is not called from here and its traceback stays short::

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
                # Not in Attempt.__exit__: until it returns, the traceback keeps the activations.
                fused_lora.clear_caches(self.adapted.model)
                self._halve()
                with suppress(distributed.RecomputeBatch):
                    distributed.request_recompute()

    def run(self, compute: Callable[[int], T]) -> T:
        """Return ``compute(tokens)`` of the first attempt that succeeds.

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
                f"step {self.step + 1}: memory ran out with micro-batches of {self.tokens} tokens, "
                f"after halving them {MAX_HALVINGS} times",
                hint=(
                    "set gradient_checkpointing = true, a smaller max_length, or train adapters "
                    "instead"
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
                    f"step {self.step + 1}: memory ran out; going on with micro-batches of "
                    f"{self.tokens} tokens, the batch stays the same"
                ),
            )
        )
