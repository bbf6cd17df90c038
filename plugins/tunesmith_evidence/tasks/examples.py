"""Examples: what baselines learn from, the texts of training rows in an order of their own.

The order of examples depends on their content alone, so a baseline is the same whatever the order
of the rows. Of more rows than a baseline can use, a sample is taken that depends on the seed and on
the content of each row.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith.records import Prompt, Record, Text, UnpairedPreference, last_exchange

__all__ = ["Example", "has_examples", "read_examples"]

MAX_EXAMPLES = 20_000
"""Rows that a baseline learns from."""


@dataclass(frozen=True, order=True, slots=True)
class Example:
    """The last answer of a training row, with the texts of its prompt."""

    text: str
    """All texts of the prompt."""
    answer: str
    question: str
    """The last message of the user."""


def read_examples(
    records: Iterable[Record], seed: int = 0, limit: int = MAX_EXAMPLES
) -> list[Example]:
    """Return the examples of the records, sorted; at most ``limit``, sampled by their content.

    Skipped are plain texts, answers that are labeled as bad, and answers that call tools.
    """
    examples = _all_examples(records)
    sample = heapq.nsmallest(limit, ((random_order(e, seed), e) for e in examples))
    return sorted(example for _, example in sample)


def random_order(example: Example, seed: int) -> bytes:
    """Return a key that sorts examples at random, by the seed and the content of each."""
    content = f"{seed}\0{example.text}\0{example.answer}"
    return hashlib.blake2b(content.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _all_examples(records: Iterable[Record]) -> Iterator[Example]:
    for record in records:
        if isinstance(record, Text):
            continue
        if isinstance(record, UnpairedPreference) and not record.label:
            continue
        prompt, answer = last_exchange(record)
        if not answer.tool_calls:
            yield Example(prompt_text(prompt), answer.text, last_question(prompt))


def prompt_text(prompt: Prompt) -> str:
    """Return all texts of a prompt, one message below the other."""
    return prompt if isinstance(prompt, str) else "\n".join(message.text for message in prompt)


def prompt_texts(prompts: Sequence[Prompt]) -> list[str]:
    """Return the texts of prompts."""
    return [*map(prompt_text, prompts)]


def last_question(prompt: Prompt) -> str:
    """Return the last message of the user; empty if there is none."""
    if isinstance(prompt, str):
        return prompt
    return next((m.text for m in reversed(prompt) if m.role == "user"), "")


def has_examples(records: Iterable[Record]) -> bool:
    """Return True if a record can be shown as a worked example."""
    return any(True for _ in _all_examples(records))


def take_each_answer_first(ordered: Sequence[Example], count: int) -> list[Example]:
    """Return ``count`` examples in their order, each answer once before any is used twice."""
    uses: Counter[str] = Counter()
    ranked = []
    for position, example in enumerate(ordered):
        answer = example.answer.strip()
        ranked.append((uses[answer], position))
        uses[answer] += 1
    return [ordered[position] for _, position in sorted(ranked)[:count]]
