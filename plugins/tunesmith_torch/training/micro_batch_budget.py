"""The number of tokens that a micro-batch may compute, halved if memory runs out."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import torch

from tunesmith.contracts import Job
from tunesmith.errors import TrainingError
from tunesmith.events import Notice
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.memory import is_out_of_memory

T = TypeVar("T")

MAX_HALVINGS = 3
"""Times that a run may halve its micro-batches after running out of memory."""


@dataclass
class MicroBatchBudget:
    """The token budget of a run's micro-batches; it only ever shrinks."""

    job: Job[Any]
    adapted: AdaptedModel
    tokens: int
    step: int = 0
    """The optimizer step that is computed now, counted from 0; for messages."""
    halvings: int = 0

    def run(self, compute: Callable[[int], T]) -> T:
        """Return ``compute(tokens)``; call it again with half the tokens if memory runs out.

        ``compute`` must start anew at each call. With several ranks all of them call this method
        together; if memory runs out on one, all compute again, and only that rank halves.

        Raises:
            TrainingError: memory ran out even after :data:`MAX_HALVINGS` halvings.
        """
        while True:
            try:
                result = compute(self.tokens)
                # Wait until every rank has got this far: only then may results be combined.
                distributed.all_gather_object(None)
            except distributed.RecomputeBatch:
                continue
            except (MemoryError, RuntimeError) as error:
                if not is_out_of_memory(error):
                    raise
            else:
                return result
            # Not inside the except block: until here the traceback's frames keep the activations.
            fused_lora.clear_caches(self.adapted.model)
            self._halve()
            with suppress(distributed.RecomputeBatch):
                distributed.request_recompute()

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
            Notice(
                level="warning",
                source="memory",
                message=(
                    f"step {self.step + 1}: memory ran out; going on with micro-batches of "
                    f"{self.tokens} tokens, the batch stays the same"
                ),
            )
        )
