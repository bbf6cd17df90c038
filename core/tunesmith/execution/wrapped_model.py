"""Text models that call another one: with changed prompts or progress, or with checked results."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TypeVar

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores, require_sampling
from tunesmith.errors import PluginError
from tunesmith.offered import Plugin
from tunesmith.plugins import attribute_errors_to
from tunesmith.records import Prompt

R = TypeVar("R", TokenScores, Generation)


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

    def _results(self, call: Callable[[], Sequence[R]], count: int) -> Sequence[R]:
        """Return the results of a call with ``count`` prompts."""
        return call()

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Score completions."""
        progress = self._progress(progress, len(prompts))
        return self._results(
            lambda: self.model.score(self._prompts(prompts), completions, progress=progress),
            len(prompts),
        )

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate answers."""
        progress = self._progress(progress, len(prompts))
        return self._results(
            lambda: self.model.generate(self._prompts(prompts), max_new_tokens, progress=progress),
            len(prompts),
        )

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
        progress = self._progress(progress, len(prompts))
        return self._results(
            lambda: require_sampling(self.model).sample(
                self._prompts(prompts),
                max_new_tokens,
                seed=seed,
                temperature=temperature,
                progress=progress,
            ),
            len(prompts),
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
        return self._results(
            lambda: require_sampling(self.model).score_generations(
                self._prompts(prompts), generations, progress=progress
            ),
            len(prompts),
        )


@dataclass(frozen=True)
class CheckedModel(WrappedModel):
    """A text model whose errors are those of its technique, not of the evaluator that calls it."""

    plugin: Plugin | None
    """The plugin of the technique; None: it is not known, and its exceptions pass unchanged."""
    not_finite: list[float] = field(default_factory=list)
    """Log-probabilities that the model has returned and that are not finite."""

    def _results(self, call: Callable[[], Sequence[R]], count: int) -> Sequence[R]:
        with ExitStack() as stack:
            if self.plugin is not None:
                stack.enter_context(attribute_errors_to(self.plugin))
            results = call()
        if len(results) != count:
            name = f'plugin "{self.plugin.full_name}"' if self.plugin else "the technique"
            raise PluginError(f"{name}: its model gave {len(results)} results for {count} prompts")
        for result in results:
            if isinstance(result, TokenScores):
                self.not_finite.extend(p for p in result.logprobs if not math.isfinite(p))
        return results
