"""Text models without a language model: a function from texts to answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress, TokenScores
from tunesmith.errors import UsageError
from tunesmith.records import Answer, Prompt
from tunesmith_evidence.tasks.examples import prompt_texts


@dataclass(frozen=True)
class FunctionModel:
    """A text model that answers with a function of the prompts' texts. It has no probabilities."""

    answer: Callable[[Sequence[str]], Sequence[str]]
    """Returns the answers to texts; an answer must not depend on the other texts."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the answers; ``max_new_tokens`` has no meaning for them."""
        answers = self.answer(prompt_texts(prompts)) if prompts else []
        if progress is not None:
            progress(len(prompts))
        return [Generation(answer, len(answer.split()) + 1, "stop") for answer in answers]

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Refuse: there are no tokens to score.

        Raises:
            UsageError: always.
        """
        raise UsageError(
            "a classifier has no log-probabilities of answers",
            hint="measure it with an evaluator of generated answers, such as exact-match",
        )
