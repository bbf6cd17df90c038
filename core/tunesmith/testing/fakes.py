"""Fake text models, which let tests of evaluators and reporters run in milliseconds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from tunesmith.contracts import Generation, Progress, TokenScores
from tunesmith.records import Answer, Message, Prompt, Record, UnpairedPreference, exchanges


@dataclass
class FakeTextModel:
    """A fake text model made of two tables: ``logprobs`` by completion, and ``answers`` by prompt.

    The key of a prompt in ``answers`` is its last message, or the plain text. Each word is a token.
    If a completion is not in the table, each of its words and its end have the log-probability
    ``unknown``. If a prompt is not in the table, its answer is empty. ``calls`` records each call:
    of ``score`` with its number of prompts, of ``generate`` with its token limit.
    """

    logprobs: Mapping[str, Sequence[float]] = field(default_factory=dict)
    answers: Mapping[str, str] = field(default_factory=dict)
    unknown: float = -5.0
    calls: list[tuple[str, int]] = field(default_factory=list)

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[Answer],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return the log-probabilities of each completion from the table."""
        self.calls.append(("score", len(prompts)))
        assert len(prompts) == len(completions)
        _advance(progress, len(prompts))
        return [TokenScores(tuple(self._logprobs(_text(completion)))) for completion in completions]

    def _logprobs(self, completion: str) -> Sequence[float]:
        if completion in self.logprobs:
            return self.logprobs[completion]
        return [self.unknown] * (len(completion.split()) + 1)

    def count_tokens(self, prompt: Prompt) -> int:
        """Return the number of words of a prompt."""
        texts = [prompt] if isinstance(prompt, str) else [m.shown_text for m in prompt]
        return sum(len(text.split()) for text in texts)

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the answer to each prompt, with at most ``max_new_tokens`` words."""
        self.calls.append(("generate", max_new_tokens))
        _advance(progress, len(prompts))
        return [
            _generation(self.answers.get(prompt_key(prompt), ""), max_new_tokens)
            for prompt in prompts
        ]

    def sample(
        self,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Return the same answers as ``generate``, because this model does not sample."""
        return self.generate(prompts, max_new_tokens, progress=progress)

    def score_generations(
        self,
        prompts: Sequence[Prompt],
        generations: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Return log-probabilities from the table; a truncated answer has no end token."""
        scores = self.score(prompts, [g.text for g in generations], progress=progress)
        pairs = zip(scores, generations, strict=True)
        return [TokenScores(score.logprobs[: g.tokens]) for score, g in pairs]


def perfect_model(records: Sequence[Record]) -> FakeTextModel:
    """Return a model that answers each record with its completion, with probability 1.

    An answer labeled as bad has a probability close to 0 and is never given.
    """
    logprobs: dict[str, Sequence[float]] = {}
    answers = {}
    for record in records:
        is_bad = isinstance(record, UnpairedPreference) and not record.label
        for prompt, answer in exchanges(record):
            logprobs[answer.text] = [-100.0 * is_bad] * (len(answer.text.split()) + 1)
            if not is_bad:
                answers[prompt_key(prompt)] = answer.text + "".join(
                    f'{{"name": "{call.name}", "arguments": {call.arguments}}}'
                    for call in answer.tool_calls
                )
    return FakeTextModel(logprobs=logprobs, answers=answers)


def prompt_key(prompt: Prompt) -> str:
    """Return a prompt's key in ``answers``: its last message, or the plain text."""
    if isinstance(prompt, str):
        return prompt
    last: Message = prompt[-1]
    return last.shown_text


def _text(answer: Answer) -> str:
    return answer if isinstance(answer, str) else answer.text


def _generation(answer: str, max_new_tokens: int) -> Generation:
    words = answer.split()
    if len(words) < max_new_tokens:  # the end is a token too
        return Generation(answer, len(words) + 1, "stop")
    return Generation(" ".join(words[:max_new_tokens]), max_new_tokens, "length")


def _advance(progress: Callable[[int], None] | None, done: int) -> None:
    if progress is not None:
        progress(done)
