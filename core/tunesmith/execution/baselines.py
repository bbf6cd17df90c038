"""Prompting as the rival of fine-tuning: the same model, given an instruction and worked examples.

The baselines answer "would a prompt have done?". They use the tuned model's own template, stop
tokens, decoding and items; only what is said before the question differs. Shots come from the
training part, never from the held-out one.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Generation, Progress, TextModel, TokenScores, sampling
from tunesmith.records import Message, Prompt, Record, Text, last_exchange


@dataclass(frozen=True)
class Prompted:
    """A text model whose every prompt is preceded by an instruction and worked examples."""

    model: TextModel
    system_prompt: str | None = None
    shots: tuple[Message, ...] = ()

    def score(
        self,
        prompts: Sequence[Prompt],
        completions: Sequence[str],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Scores of the completions after the longer prompts."""
        return self.model.score([*map(self._before, prompts)], completions, progress=progress)

    def generate(
        self, prompts: Sequence[Prompt], limit: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Answers to the longer prompts."""
        return self.model.generate([*map(self._before, prompts)], limit, progress=progress)

    def sample(
        self,
        prompts: Sequence[Prompt],
        limit: int,
        *,
        seed: int,
        temperature: float = 1.0,
        progress: Progress | None = None,
    ) -> Sequence[Generation]:
        """Drawn answers to the longer prompts.

        Raises:
            UsageError: the model cannot draw.
        """
        longer = [*map(self._before, prompts)]
        able = sampling(self.model)
        return able.sample(longer, limit, seed=seed, temperature=temperature, progress=progress)

    def score_drawn(
        self,
        prompts: Sequence[Prompt],
        drawn: Sequence[Generation],
        *,
        progress: Progress | None = None,
    ) -> Sequence[TokenScores]:
        """Scores of drawn answers after the longer prompts.

        Raises:
            UsageError: the model cannot draw.
        """
        longer = [*map(self._before, prompts)]
        return sampling(self.model).score_drawn(longer, drawn, progress=progress)

    def _before(self, prompt: Prompt) -> Prompt:
        if isinstance(prompt, str):
            return prompt
        system = [message for message in prompt if message.role == "system"]
        if self.system_prompt is not None:
            system.insert(0, Message("system", self.system_prompt))
        # Templates know one system message, at the start.
        joined = [Message("system", "\n\n".join(m.content for m in system))] if system else []
        rest = [message for message in prompt if message.role != "system"]
        return (*joined, *self.shots, *rest)


def choose_shots(records: Sequence[Record], count: int, seed: int) -> tuple[Message, ...]:
    """Pick worked examples as user and assistant turns.

    Answers that recur are labels: each is shown once before any is shown twice, so that a
    classifier sees as many classes as there are shots. Long examples are avoided, because every
    one of them is in every prompt: the longer half of the records is drawn from only for labels
    that are not in the shorter half, or when that is used up.
    """
    usable = [record for record in records if not isinstance(record, Text)]
    usable.sort(key=lambda record: sum(map(len, _turns(record))))
    short, long = usable[: (len(usable) + 1) // 2], usable[(len(usable) + 1) // 2 :]
    draw = random.Random(seed)
    draw.shuffle(short)
    draw.shuffle(long)
    candidates = [*short, *long]
    seen: dict[str, int] = {}
    ranked = []
    for position, record in enumerate(candidates):
        answer = last_exchange(record)[1].strip()
        ranked.append((seen.get(answer, 0), position, record))
        seen[answer] = seen.get(answer, 0) + 1
    chosen = [record for _, _, record in sorted(ranked, key=lambda item: item[:2])[:count]]
    messages: list[Message] = []
    for record in chosen:
        question, answer = _turns(record)
        messages += [Message("user", question), Message("assistant", answer)]
    return tuple(messages)


def _turns(record: Record) -> tuple[str, str]:
    """The last question and answer of a record."""
    prompt, answer = last_exchange(record)
    if isinstance(prompt, str):
        return prompt, answer
    return next((m.content for m in reversed(prompt) if m.role == "user"), ""), answer
