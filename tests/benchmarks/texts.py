"""Rows of English text, from Python's own documentation, which every Python contains."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from pathlib import Path
from pydoc_data.topics import topics

from tests.benchmarks.work import SEED

PROMPT_CHARACTERS = (400, 900)
COMPLETION_CHARACTERS = (100, 400)
CHARACTERS_PER_WORD = 7


def make_passages() -> Iterator[dict[str, str]]:
    """Yield rows of passages without end; they overlap."""
    text = " ".join(" ".join(topics.values()).split())
    source = random.Random(SEED)

    def passage(size: int) -> str:
        start = source.randrange(len(text) - size)
        return text[start : start + size].strip()

    while True:
        prompt = passage(source.randint(*PROMPT_CHARACTERS))
        yield {"prompt": prompt, "completion": passage(source.randint(*COMPLETION_CHARACTERS))}


def make_rows_of_words() -> Iterator[dict[str, str]]:
    """Yield rows of random words, as frequent as in the text, without end; none are similar."""
    words = " ".join(topics.values()).split()
    source = random.Random(SEED)

    def draw(low: int, high: int) -> str:
        count = source.randint(low, high) // CHARACTERS_PER_WORD
        return " ".join(source.choices(words, k=count))

    while True:
        yield {"prompt": draw(*PROMPT_CHARACTERS), "completion": draw(*COMPLETION_CHARACTERS)}


def write_rows(path: Path, size: int) -> int:
    """Write a JSON Lines file of at least ``size`` bytes; return the number of rows."""
    written = rows = 0
    with path.open("w", encoding="utf-8") as file:
        for row in make_rows_of_words():
            written += file.write(json.dumps(row) + "\n")
            rows += 1
            if written >= size:
                break
    return rows
