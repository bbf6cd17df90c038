"""Base class of text models that call another one with changed prompts or changed progress."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores, require_sampling
from tunesmith.records import Prompt


@dataclass(frozen=True)
class WrappedModel:
    """A text model that passes every call on; subclasses change the prompts or the progress."""

    model: TextModel

    def _prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Return the prompts that the model gets."""
        return prompts

    def _progress(self, progress: Progress | None, count: int) -> Progress | None:
        """Return the callback that the model gets, of a call with ``count`` prompts."""
        return progress

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Score completions."""
        progress = self._progress(progress, len(prompts))
        return self.model.score(self._prompts(prompts), completions, progress=progress)

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate answers."""
        progress = self._progress(progress, len(prompts))
        return self.model.generate(self._prompts(prompts), max_new_tokens, progress=progress)

    def sample(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Sample answers.

        Raises:
            UsageError: the model does not support sampling.
        """
        return require_sampling(self.model).sample(
            self._prompts(prompts),
            max_new_tokens,
            seed=seed,
            temperature=temperature,
            progress=self._progress(progress, len(prompts)),
        )

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Score sampled answers token by token.

        Raises:
            UsageError: the model does not support sampling.
        """
        progress = self._progress(progress, len(prompts))
        return require_sampling(self.model).score_generations(
            self._prompts(prompts), generations, progress=progress
        )
