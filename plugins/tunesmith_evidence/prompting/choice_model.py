"""Constrained answers: of the given labels, the one that a model finds the most probable."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Prompt


@dataclass(frozen=True)
class ChoiceModel(WrappedModel):
    """A text model that answers with the label of the highest probability, and nothing else."""

    labels: tuple[str, ...] = ()

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return a label for each prompt; of equally probable ones the first."""
        count = len(self.labels)
        # All at once: the model computes the beginning that all prompts have only once.
        scores = self.model.score(
            [prompt for prompt in prompts for _ in self.labels],
            self.labels * len(prompts),
            progress=progress and (lambda done: progress(done // count)),
        )
        answers = []
        for start in range(0, count * len(prompts), count):
            sums = [math.fsum(score.logprobs) for score in scores[start : start + count]]
            best = max(range(count), key=sums.__getitem__)
            tokens = len(scores[start + best].logprobs)
            answers.append(Generation(self.labels[best], tokens, "stop"))
        return answers
