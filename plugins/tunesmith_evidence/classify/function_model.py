"""Wrap a function that maps texts to answers as a text model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress
from tunesmith.errors import UsageError
from tunesmith.records import Prompt
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_evidence.tasks.examples import prompt_texts

__all__ = ["FunctionModel"]


@dataclass(frozen=True)
class FunctionModel(GenerationOnlyModel):
    """A text model whose answers a function computes from the prompts' texts. It cannot score."""

    answer: Callable[[Sequence[str]], Sequence[str | tuple[str, float]]]
    """Returns an answer to each text, alone or with its confidence; an answer must not depend on
    the other texts."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the function's answers, whatever their length. ``max_new_tokens`` is ignored."""
        found = self.answer(prompt_texts(prompts)) if prompts else []
        if progress is not None:
            progress(len(prompts))
        pairs = ((each, 0.0) if isinstance(each, str) else each for each in found)
        return [
            Generation(answer, len(answer.split()) + 1, "stop", confidence=confidence)
            for answer, confidence in pairs
        ]

    @property
    def refusal(self) -> UsageError:
        """The error for scoring existing answers: a classifier has no token probabilities."""
        return UsageError(
            "a classifier does not compute log-probabilities of answers",
            hint="use an evaluator that compares generated answers, such as exact-match",
        )
