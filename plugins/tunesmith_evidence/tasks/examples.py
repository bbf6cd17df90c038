"""Read the examples that baselines learn from: the prompts and answers of training rows, as text.

The order of the examples depends only on their content, so a baseline does not depend on the order
of the rows. If there are more rows than a baseline can use, the seed and the content of the rows
determine the sample.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tunesmith.records import Prompt, Record, Text, UnpairedPreference, last_exchange, prompt_text

__all__ = [
    "Example",
    "has_examples",
    "last_question",
    "random_sort_key",
    "read_examples",
]

MAX_EXAMPLES = 20_000
"""Maximum number of rows that a baseline learns from."""


@dataclass(frozen=True, order=True, slots=True)
class Example:
    """The last answer of a training row, with its prompt."""

    text: str
    """All texts of the prompt, joined by newlines."""
    answer: str
    question: str
    """The user's last message."""


def read_examples(
    records: Iterable[Record], seed: int = 0, limit: int = MAX_EXAMPLES
) -> list[Example]:
    """Return up to ``limit`` examples from the records, sorted by content.

    Skip plain texts, answers labeled as bad, and answers with tool calls.
    """
    examples = _all_examples(records)
    sample = heapq.nsmallest(limit, ((random_sort_key(e, seed), e) for e in examples))
    return sorted(example for _, example in sample)


def random_sort_key(example: Example, seed: int) -> bytes:
    """Return a sort key that shuffles examples, derived from the seed and their content."""
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


def prompt_texts(prompts: Sequence[Prompt]) -> list[str]:
    """Return the text of each prompt. See :func:`prompt_text`."""
    return [*map(prompt_text, prompts)]


def last_question(prompt: Prompt) -> str:
    """Return the user's last message, or an empty string if the user wrote no message."""
    if isinstance(prompt, str):
        return prompt
    return next((m.shown_text for m in reversed(prompt) if m.role == "user"), "")


def has_examples(records: Iterable[Record]) -> bool:
    """Return True if any of the records can be shown as a worked example."""
    return any(True for _ in _all_examples(records))


def take_each_answer_first(ordered: Sequence[Example], count: int) -> list[Example]:
    """Choose ``count`` examples in order, using each answer once before any answer is repeated."""
    uses: Counter[str] = Counter()
    ranked = []
    for position, example in enumerate(ordered):
        answer = example.answer.strip()
        ranked.append((uses[answer], position))
        uses[answer] += 1
    return [ordered[position] for _, position in sorted(ranked)[:count]]
