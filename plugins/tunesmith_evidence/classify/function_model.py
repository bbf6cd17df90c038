"""Wrap a function from texts to answers as a text model."""

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
    """A text model that answers by a function of the prompts' texts; it cannot score."""

    answer: Callable[[Sequence[str]], Sequence[str | tuple[str, float]]]
    """Returns an answer to each text, alone or with its confidence; an answer must not depend on
    the other texts."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the answers; ``max_new_tokens`` is ignored."""
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
        """The error raised for scoring: a classifier has no tokens to score."""
        return UsageError(
            "a classifier has no log-probabilities of answers",
            hint="measure it with an evaluator of generated answers, such as exact-match",
        )
