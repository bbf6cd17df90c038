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
        answers = []
        for done, prompt in enumerate(prompts, 1):
            # One prompt at a time: the model computes it once for all labels.
            scores = self.model.score([prompt] * len(self.labels), self.labels)
            sums = [math.fsum(score.logprobs) for score in scores]
            best = max(range(len(sums)), key=sums.__getitem__)
            tokens = len(scores[best].logprobs)
            answers.append(Generation(self.labels[best], tokens, "stop"))
            if progress is not None:
                progress(done)
        return answers
