"""Wrap an engine as a text model, which the run's evaluators can measure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.contracts import Generation, Progress, TokenScores
from tunesmith.records import Answer, Prompt
from tunesmith_torch.data.templates import Template
from tunesmith_torch.export.contract import Engine


class EngineModel:
    """A text model that runs an engine with the token ids used in training."""

    def __init__(self, engine: Engine, template: Template) -> None:
        self.engine = engine
        self.template = template

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of each completion given its prompt."""
        return [
            self._score(before, after)
            for before, after in self.template.encode_exchanges(prompts, completions)
        ]

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate a greedy answer to each prompt."""
        return self.engine.generate(prompts, max_new_tokens)

    def _score(self, before: list[int], after: list[int]) -> TokenScores:
        first = max(len(before) - 1, 0)
        scored = after if before else after[1:]
        logprobs_NV = np.asarray(self.engine.logprobs([*before, *after][:-1], first))
        return TokenScores(tuple(logprobs_NV[np.arange(len(scored)), scored].tolist()))
