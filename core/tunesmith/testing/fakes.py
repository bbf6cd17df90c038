"""Stand-ins for the heavy parts, so that evaluators and reporters can be tested in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.contracts import Generation, Progress, TokenScores
from tunesmith.records import Message, Prompt, Record, exchanges


@dataclass
class FakeTextModel:
    """A text model out of two tables: log-probabilities by completion, answers by prompt.

    A prompt's key in ``answers`` is its last message, or the bare text. What is in neither table
    gets ``unknown`` as its log-probability for every word and the end, and an empty answer.
    Words stand for tokens. ``calls`` keeps what was asked for, one entry a call.
    """

    logprobs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    unknown: float = -5.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """What the table holds for each completion."""
        self.calls.append(("score", len(prompts)))
        assert len(prompts) == len(completions)
        _advance(progress, len(prompts))
        return [TokenScores(tuple(self._logprobs(completion))) for completion in completions]

    def _logprobs(self, completion: str) -> Sequence[float]:
        if completion in self.logprobs:
            return self.logprobs[completion]
        return [self.unknown] * (len(completion.split()) + 1)

    def generate(
        self, prompts: Sequence[Prompt], limit: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """What the table holds for each prompt, cut off after ``limit`` words."""
        self.calls.append(("generate", limit))
        _advance(progress, len(prompts))
        return [_generation(self.answers.get(key_of(prompt), ""), limit) for prompt in prompts]

    def sample(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """What it always answers: there is nothing to draw from."""
        return self.generate(prompts, limit, progress=progress)

    def score_drawn(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """What the table holds for what was said; an answer that was cut off has no end."""
        scores = self.score(prompts, [answer.text for answer in drawn], progress=progress)
        both = zip(scores, drawn, strict=True)
        return [TokenScores(score.logprobs[: answer.tokens]) for score, answer in both]


def perfect_model(records: Sequence[Record]) -> FakeTextModel:
    """A model that is certain of everything that the records teach, and says it."""
    taught = [exchange for record in records for exchange in exchanges(record)]
    return FakeTextModel(
        logprobs={answer: [0.0] * (len(answer.split()) + 1) for _, answer in taught},
        answers={key_of(prompt): answer for prompt, answer in taught},
    )


def key_of(prompt: Prompt) -> str:
    """The key of a prompt in the table of answers: its last message, or the bare text."""
    if isinstance(prompt, str):
        return prompt
    last: Message = prompt[-1]
    return last.content


def _generation(answer: str, limit: int) -> Generation:
    words = answer.split()
    if len(words) < limit:  # the end takes a token too
        return Generation(answer, len(words) + 1, "end")
    return Generation(" ".join(words[:limit]), limit, "limit")


def _advance(progress: Callable[[int], None] | None, done: int) -> None:
    if progress is not None:
        progress(done)
