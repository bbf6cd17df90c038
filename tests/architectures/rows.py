"""Conversations of mixed lengths, with and without a common system prompt."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

TEXT = (
    "the capital of France is Paris what my card has not arrived yet and I would like a refund "
    "user question answer yes no one two three four five this ticket is about delivery invoice"
)
SYSTEM_WORDS = 24
LENGTHS = (3, 70, 9, 24, 5, 40)
"""Words of the conversations, short ones beside long ones."""

Conversation = list[dict[str, str]]


@dataclass(frozen=True)
class RowFiles:
    """Rows to train on and rows to evaluate on."""

    train: tuple[Conversation, ...]
    test: tuple[Conversation, ...]

    def write(self, folder: Path, name: str) -> dict[str, Any]:
        """Write both parts as JSON Lines; return the ``[data]`` table that names them."""
        table: dict[str, Any] = {"use": "jsonl"}
        for part in ("train", "test"):
            path = folder / f"{name}-{part}.jsonl"
            rows = getattr(self, part)
            path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
            table[part] = str(path)
        return table


def make_rows(seed: int, lengths: Sequence[int], *, shared: bool) -> RowFiles:
    """Return conversations with about these many words; ``shared``: they begin alike."""
    random_ = random.Random(f"{seed} {shared}")
    system = _words(random_, SYSTEM_WORDS) if shared else ""

    def conversation(words: int, turns: int) -> Conversation:
        first = [{"role": "system", "content": system}] if system else []
        share = max(1, words // (2 * turns))
        return first + [
            {"role": role, "content": _words(random_, share + random_.randrange(2))}
            for _ in range(turns)
            for role in ("user", "assistant")
        ]

    rows = [conversation(words, 1 + (i % 3 == 2)) for i, words in enumerate(lengths)]
    test = [conversation(words, 1 + (i == 1)) for i, words in enumerate(lengths[:4])]
    return RowFiles(tuple(rows), tuple(test))


def _words(random_: random.Random, count: int) -> str:
    return " ".join(random_.choice(TEXT.split()) for _ in range(count))
