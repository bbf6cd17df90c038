"""Constrain a model's answers to given labels by choosing the most probable one.

A small model prefers some labels regardless of the question. Calibration divides each label's
probability by its mean over other prompts of the task, ``p(label | prompt) / mean p(label |
other)``. This is Batch Calibration (Zhou et al., 2023, arXiv 2309.17249) with training prompts
instead of the batch, so an answer does not depend on the other prompts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from tunesmith.contracts import Generation, Progress
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Prompt

__all__ = ["ChoiceModel", "LabelScores"]


@dataclass(frozen=True)
class LabelScores:
    """A model's scores of all labels after one prompt."""

    sums: tuple[float, ...]
    """Log-probability of each label, in nats."""
    tokens: tuple[int, ...]
    """Number of tokens of each label."""


@dataclass(frozen=True)
class ChoiceModel(WrappedModel):
    """A text model that always answers with the most probable label."""

    labels: tuple[str, ...] = ()
    calibration: tuple[Prompt, ...] = ()
    """Prompts for calibrating the labels; empty: no calibration."""
    known: dict[Prompt, LabelScores] = field(default_factory=dict)
    """Cache of scores, which instances with the same labels and inner model can share."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the most probable label for each prompt; ties go to the first label."""
        answers = []
        for scores in self._score_labels(prompts, progress):
            gains = [a - b for a, b in zip(scores.sums, self._prior, strict=True)]
            best = max(range(len(gains)), key=gains.__getitem__)
            lead = gains[best] - max([*gains[:best], *gains[best + 1 :]], default=gains[best])
            tokens = scores.tokens[best]
            answers.append(Generation(self.labels[best], tokens, "stop", confidence=lead))
        return answers

    @cached_property
    def _prior(self) -> Sequence[float]:
        """Compute the log of each label's mean probability over the calibration prompts."""
        if not self.calibration:
            return [0.0] * len(self.labels)
        means = [0.0] * len(self.labels)
        for scores in self._score_labels(self.calibration, None):
            total = _log_sum(scores.sums)
            means = [m + math.exp(s - total) for m, s in zip(means, scores.sums, strict=True)]
        return [math.log(max(mean, math.ulp(0.0))) for mean in means]

    def _score_labels(
        self, prompts: Sequence[Prompt], progress: Progress | None
    ) -> list[LabelScores]:
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self.known]
        count = len(self.labels)
        if not new:
            return [self.known[prompt] for prompt in prompts]
        # Score all at once, so that the model computes the shared prefix of the prompts only once.
        scores = self.model.score(
            [prompt for prompt in new for _ in self.labels],
            self.labels * len(new),
            progress=progress and (lambda done: progress(done // count)),
        )
        for start, prompt in zip(range(0, count * len(new), count), new, strict=True):
            found = scores[start : start + count]
            sums = tuple(math.fsum(score.logprobs) for score in found)
            self.known[prompt] = LabelScores(sums, tuple(len(score.logprobs) for score in found))
        if progress is not None:
            progress(len(prompts))
        return [self.known[prompt] for prompt in prompts]


def _log_sum(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(math.fsum(math.exp(log - most) for log in logs))
