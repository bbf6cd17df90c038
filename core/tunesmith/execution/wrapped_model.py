"""Text models that wrap another text model to change prompts or progress, or to check results."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores, require_sampling
from tunesmith.errors import PluginError, PromptTooLongError
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import Plugin
from tunesmith.records import Answer, Prompt

R = TypeVar("R", TokenScores, Generation)


@contextmanager
def attribute_prompt_errors(
    prompts: Sequence[Prompt], converted: Sequence[Prompt]
) -> Iterator[None]:
    """Replace converted prompts with the original ones in an error about too long prompts."""
    try:
        yield
    except PromptTooLongError as error:
        pairs = zip(prompts, converted, strict=True)
        error.prompts = tuple(prompt for prompt, other in pairs if other in error.prompts)
        raise


@dataclass(frozen=True)
class WrappedModel:
    """A text model that forwards every call; subclasses change prompts, progress or results."""

    model: TextModel

    def convert_prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        """Return the prompts to pass to the model."""
        return prompts

    def _progress(self, progress: Progress | None, count: int) -> Progress | None:
        """Return the progress callback to pass to the model for ``count`` prompts, or None."""
        return progress

    def _call(
        self,
        method: Callable[..., Sequence[R]],
        prompts: Sequence[Prompt],
        *arguments: object,
        progress: Progress | None,
        **options: object,
    ) -> Sequence[R]:
        """Call a method of the model and return its result for each prompt."""
        progress, converted = self._progress(progress, len(prompts)), self.convert_prompts(prompts)
        with attribute_prompt_errors(prompts, converted):
            return method(converted, *arguments, progress=progress, **options)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of each completion given its prompt."""
        return self._call(self.model.score, prompts, completions, progress=progress)

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Generate a greedy answer to each prompt."""
        return self._call(self.model.generate, prompts, max_new_tokens, progress=progress)

    def sample(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Sample an answer to each prompt.

        Raises:
            UsageError: the model does not support sampling.
        """
        method = require_sampling(self.model).sample
        options = {"seed": seed, "temperature": temperature}
        return self._call(method, prompts, max_new_tokens, progress=progress, **options)

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of the tokens of sampled answers.

        Raises:
            UsageError: the model does not support sampling.
        """
        method = require_sampling(self.model).score_generations
        return self._call(method, prompts, generations, progress=progress)


@dataclass(frozen=True)
class CachedModel(WrappedModel):
    """A text model that caches scores and answers, so that several evaluators can share them."""

    results: dict[tuple[Prompt, Any], Any] = field(default_factory=dict)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the scores, computing only those that are not in the cache."""
        pairs = [*zip(prompts, completions, strict=True)]
        new = [pair for pair in dict.fromkeys(pairs) if pair not in self.results]
        if new:
            scores = self.model.score([p for p, _ in new], [c for _, c in new], progress=progress)
            if len(scores) != len(new):
                return scores  # the caller checks the number
            self.results.update(zip(new, scores, strict=True))
        return [self.results[pair] for pair in pairs]

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the answers, generating only those not in the cache for this limit."""
        keys = [(prompt, max_new_tokens) for prompt in prompts]
        new = [key for key in dict.fromkeys(keys) if key not in self.results]
        if new:
            answers = self.model.generate([p for p, _ in new], max_new_tokens, progress=progress)
            if len(answers) != len(new):
                return answers
            self.results.update(zip(new, answers, strict=True))
        return [self.results[key] for key in keys]


@dataclass(frozen=True)
class CheckedModel(WrappedModel):
    """A text model whose errors are attributed to its plugin, not to the calling evaluator."""

    plugin: Plugin
    """The plugin that the model comes from: that of the technique or of a baseline."""
    not_finite: list[float]
    """List to which log-probabilities that are not finite are added."""
    cut: set[Prompt] = field(default_factory=set)
    """Set to which the prompts of answers that were cut off at the token limit are added."""

    def _call(
        self,
        method: Callable[..., Sequence[R]],
        prompts: Sequence[Prompt],
        *rest: Any,
        **named: Any,
    ) -> Sequence[R]:
        with attribute_errors_to(self.plugin):
            results = super()._call(method, prompts, *rest, **named)
        if len(results) != len(prompts):
            raise PluginError(
                f'plugin "{self.plugin.full_name}": its model returned {len(results)} results for '
                f"{len(prompts)} prompts"
            )
        for prompt, result in zip(prompts, results, strict=True):
            if isinstance(result, TokenScores):
                self.not_finite.extend(p for p in result.logprobs if not math.isfinite(p))
            elif result.finish_reason == "length":
                self.cut.add(prompt)
        return results
