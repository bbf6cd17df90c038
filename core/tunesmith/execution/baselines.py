"""Prompting baselines: the untuned model with a system prompt and few-shot examples.

They show if a prompt would have been enough. Baselines use the chat template, stop tokens, decoding
and records of the tuned model; only the messages before the question differ. The few-shot examples
come from the training part, never from the held-out part.
"""

from __future__ import annotations

import heapq
import random
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith.records import Message, Prompt, Record, Text, UnpairedPreference, last_exchange


@dataclass(frozen=True)
class PromptedModel(WrappedModel):
    """A text model that puts a system prompt and few-shot examples before every prompt."""

    system_prompt: str | None = None
    shots: tuple[Message, ...] = ()

    def _prompts(self, prompts: Sequence[Prompt]) -> Sequence[Prompt]:
        return [*map(self._with_prefix, prompts)]

    def _with_prefix(self, prompt: Prompt) -> Prompt:
        if isinstance(prompt, str):
            return prompt
        system = [message for message in prompt if message.role == "system"]
        if self.system_prompt is not None:
            system.insert(0, Message("system", self.system_prompt))
        # Chat templates accept one system message only, at the start: join them.
        joined = [Message("system", "\n\n".join(m.text for m in system))] if system else []
        rest = [replace(m, tools=()) for m in prompt if m.role != "system"]
        first, *others = (*joined, *self.shots, *rest)
        return (replace(first, tools=prompt[0].tools), *others)


def choose_shots(records: Sequence[Record], count: int, seed: int) -> tuple[Message, ...]:
    """Choose few-shot examples from records, as user and assistant turns.

    Recurring answers are class labels: each label is used once before any is used twice, so that
    as many classes as possible are shown. Long examples are avoided, because every prompt includes
    them: the longer half of the records is used only for labels that the shorter half lacks, or
    when the shorter half is used up.
    """
    if not count:
        return ()
    # Numbers instead of records, of which there can be too many for memory.
    rows, lengths, answers = array("q"), array("q"), array("q")
    for row, record in enumerate(records):
        if _is_plain_exchange(record):
            question, answer = _last_turns(record)
            rows.append(row)
            lengths.append(len(question) + len(answer))
            answers.append(hash(answer.strip()))
    usable = sorted(range(len(rows)), key=lengths.__getitem__)
    short, long = usable[: (len(usable) + 1) // 2], usable[(len(usable) + 1) // 2 :]
    rng = random.Random(seed)
    rng.shuffle(short)
    rng.shuffle(long)
    uses: Counter[int] = Counter()
    ranked = []
    for position, number in enumerate([*short, *long]):
        ranked.append((uses[answers[number]], position, rows[number]))
        uses[answers[number]] += 1
    messages: list[Message] = []
    for _, _, row in heapq.nsmallest(count, ranked):
        question, answer = _last_turns(records[row])
        messages += [Message("user", question), Message("assistant", answer)]
    return tuple(messages)


def _is_plain_exchange(record: Record) -> bool:
    """Return True if the last answer is text alone, and is not known as a bad one."""
    if isinstance(record, Text) or (isinstance(record, UnpairedPreference) and not record.label):
        return False
    return not last_exchange(record)[1].tool_calls


def _last_turns(record: Record) -> tuple[str, str]:
    """Return the last user message and the last answer of a record."""
    prompt, answer = last_exchange(record)
    if isinstance(prompt, str):
        return prompt, answer.text
    return next((m.text for m in reversed(prompt) if m.role == "user"), ""), answer.text
