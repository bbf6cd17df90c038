"""Measure an evaluator's metric on validation rows, with the model that is in training.

The cost is bounded in rows and in tokens, not in seconds, so every machine measures the same rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith.contracts import Job, Scorer
from tunesmith.errors import UsageError
from tunesmith.events import FindingReported
from tunesmith.records import Record
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.training import DEFAULT_BY
from tunesmith_torch.runtime import distributed, sharding

MAX_SCORED_ROWS = 100
"""Maximum number of validation rows that an evaluator measures at a time."""
MAX_GENERATED_TOKENS = 4096
"""Maximum number of tokens that all answers of one measurement may have together."""
MIN_SCORED_ROWS = 16
"""With fewer rows, a score would be too coarse to choose by."""


@dataclass(frozen=True)
class ValidationScore:
    """An evaluator's first metric on some validation rows."""

    scorer: Scorer
    records: Sequence[Record]
    template: Template
    adapted: AdaptedModel

    @classmethod
    def create(
        cls,
        job: Job[Any],
        evaluator: str,
        records: Sequence[Record],
        template: Template,
        adapted: AdaptedModel,
    ) -> ValidationScore | None:
        """Return the score by an evaluator on as many rows as the bounds allow.

        None: the validation loss chooses, because the options ask for it or the bounds allow too
        few rows. Ranks other than 0 have no evaluators, so they also get None.

        Raises:
            UsageError: the run has no such evaluator, or it cannot rate answers to validation rows.
        """
        if evaluator == DEFAULT_BY or not distributed.is_rank_0():
            return None
        scorer = job.scorers.get(evaluator)
        if scorer is None:
            raise UsageError(
                f'technique.validation.by: "{evaluator}" is not an evaluator of this run that can '
                "rate answers to validation rows",
                hint=f"choose one of: {', '.join([DEFAULT_BY, *job.scorers])}",
            )
        affordable = MAX_GENERATED_TOKENS // max(scorer.answer_limit, 1)
        rows = min(len(records), MAX_SCORED_ROWS, affordable)
        if rows >= MIN_SCORED_ROWS:
            return cls(scorer, records[:rows], template, adapted)
        text = (
            f"{evaluator} cannot choose: there are too few validation rows, or their answers may "
            "be too long; the validation loss chooses"
        )
        job.emit(FindingReported(level="info", source="technique.validation", message=text))
        return None

    def measure(self) -> list[float]:
        """Return the value of each row; higher is better."""
        device = self.adapted.base.model.device
        model = TorchTextModel(self.adapted.model, self.template, device)
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            values = self.scorer.measure(model, self.records).values
        return [value if self.scorer.higher_is_better else -value for value in values]


def measure_on_rank_0(adapted: AdaptedModel, score: ValidationScore | None) -> list[float] | None:
    """Return the values that rank 0 measures, on all ranks; None if rank 0 has no score."""
    with sharding.summon_full_params(adapted.model):
        return distributed.broadcast_from_rank_0(lambda: score.measure() if score else None)
