"""Read pools of prompts, and read and write the last answer of a record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

from tunesmith.records import Chat, Completion, Message, Record, Text, last_exchange

Pool = Sequence[Completion | Chat]


def read_pool(path: Path, count: int, seed: int) -> Pool:
    """Read prompts with a placeholder as their answer; a line of text is a user's turn.

    The prompts are in random order, so a limit does not prefer those at the start of the file. A
    larger count adds prompts to those of a smaller one.
    """
    from tunesmith_data.coverage import read_prompts

    rows = read_prompts(path).train
    found: list[Completion | Chat] = []
    for number in shuffle_rows(len(rows), seed)[:count]:
        record = rows[number]
        if isinstance(record, Text):
            record = Completion(source=record.source, prompt=record.text, completion="")
        if isinstance(record, Completion | Chat):
            found.append(record)
    return found


def shuffle_rows(count: int, seed: int) -> list[int]:
    """Return the numbers from 0 to ``count - 1`` in random order."""
    order = list(range(count))
    Random(seed).shuffle(order)
    return order


def with_answer(record: Completion | Chat, answer: str) -> Record:
    """Return a row of a pool with an answer instead of its placeholder."""
    if isinstance(record, Completion):
        return replace(record, completion=answer)
    return replace(record, messages=(*record.messages[:-1], Message("assistant", answer)))


def read_answer(record: Record) -> str:
    """Return the text of the last answer."""
    return last_exchange(record)[1].text.strip()
