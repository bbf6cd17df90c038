"""Measure an evaluator's metric on validation rows, with the model that is in training.

The cost is bounded in rows and in tokens, not in seconds, so every machine measures the same rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from tunesmith.contracts import Scorer
from tunesmith.errors import UsageError
from tunesmith.records import Record
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.runtime import distributed, sharding

MAX_SCORED_ROWS = 100
"""Maximum number of validation rows that an evaluator measures at a time."""
MAX_GENERATED_TOKENS = 4096
"""Maximum number of tokens that all answers of one measurement may have together."""
MIN_SCORED_ROWS = 16
"""With fewer rows, a score would be too coarse to choose by."""
LOSS = "loss"
"""Name of the validation loss, where an evaluator could be named."""


def find_scorer(scorers: Mapping[str, Scorer], name: str) -> Scorer | None:
    """Return the scorer of an evaluator; None for the validation loss.

    Raises:
        UsageError: the run has no such evaluator, or it cannot choose between checkpoints.
    """
    if name == LOSS:
        return None
    if name not in scorers:
        suitable = ", ".join([LOSS, *scorers])
        raise UsageError(
            f'technique.validation.by: "{name}" is not an evaluator of this run that can measure '
            "validation rows one by one",
            hint=f"choose one of: {suitable}",
        )
    return scorers[name]


@dataclass(frozen=True)
class ValidationScore:
    """A metric on some validation rows."""

    scorer: Scorer
    records: Sequence[Record]
    template: Template
    adapted: AdaptedModel

    @classmethod
    def create(
        cls,
        scorer: Scorer | None,
        records: Sequence[Record],
        template: Template,
        adapted: AdaptedModel,
    ) -> ValidationScore | None:
        """Return the score on as many rows as the bounds allow; None if these are too few."""
        if scorer is None:
            return None
        affordable = MAX_GENERATED_TOKENS // max(scorer.answer_limit(records), 1)
        rows = min(len(records), MAX_SCORED_ROWS, affordable)
        if rows < MIN_SCORED_ROWS:
            return None
        return cls(scorer, records[:rows], template, adapted)

    def measure(self) -> list[float]:
        """Return the value of each row; higher is better."""
        device = self.adapted.base.model.device
        model = TorchTextModel(self.adapted.model, self.template, device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return [*self.scorer.measure(model, self.records)]


def measure_on_rank_0(adapted: AdaptedModel, score: ValidationScore | None) -> list[float] | None:
    """Return the values that rank 0 measures, on all ranks; None if rank 0 has no score."""
    with sharding.summon_full_params(adapted.model):
        return distributed.broadcast_from_rank_0(lambda: score.measure() if score else None)
