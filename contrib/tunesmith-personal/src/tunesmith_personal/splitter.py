"""Splitter ``per-user``: every user has training, validation and test rows."""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

from tunesmith.contracts import Split, SplitRequest
from tunesmith.errors import DataError
from tunesmith.records import Record, last_exchange, prompt_text
from tunesmith_personal.options import PerUserOptions

DEFAULT_TEST_SHARE = 0.2


@dataclass(frozen=True)
class PerUser:
    """Splits the rows of each user by their content, independently of all other users.

    Rows of a user with equal prompts stay together. Few rows still give one row for each split.
    """

    options: PerUserOptions

    def split(self, records: Iterable[Record], request: SplitRequest) -> Split:
        """Return the split; rows without a group are training rows."""
        if isinstance(request.test_size, int):
            raise DataError(
                "data.test_size",
                "the splitter per-user needs a share of each user's rows, not a number of rows",
                hint="set a share such as test_size = 0.2",
            )
        share = DEFAULT_TEST_SHARE if request.test_size is None else request.test_size
        shares = {
            "test": share if request.test else 0.0,
            "validation": self.options.validation_size if request.validation else 0.0,
        }
        parts: dict[str, list[int]] = {"train": [], "validation": [], "test": []}
        for user, prompts in _read(records, request.seed).items():
            left = [*prompts]
            for part, size in shares.items():
                least = 1 if size and len(left) >= 2 else 0
                count = 0 if user is None else max(least, round(size * len(left)))
                chosen, left = left[:count], left[count:]
                parts[part] += [row for prompt in chosen for row in prompts[prompt]]
            parts["train"] += [row for prompt in left for row in prompts[prompt]]
        train, validation, test = (sorted(parts[n]) for n in ("train", "validation", "test"))
        return Split(train=train, validation=validation, test=test)


def find_users(records: Sequence[Record]) -> Sequence[Hashable]:
    """Return the user of each record, or its number: the rows of a user are one unit."""
    return [("row", row) if r.group is None else r.group for row, r in enumerate(records)]


def _read(records: Iterable[Record], seed: int) -> dict[str | None, dict[str, list[int]]]:
    """Return the rows of each prompt of each user, with the prompts in a random order."""

    def order(user: str | None, prompt: str) -> bytes:
        content = f"{seed}\0{user}\0{prompt}"
        return hashlib.sha256(content.encode("utf-8", "surrogatepass")).digest()

    found: dict[str | None, dict[str, list[int]]] = {}
    for row, record in enumerate(records):
        prompt, answer = last_exchange(record)
        key = " ".join((prompt_text(prompt) or answer.shown_text).casefold().split())
        found.setdefault(record.group, {}).setdefault(key, []).append(row)
    return {
        user: {prompt: prompts[prompt] for prompt in sorted(prompts, key=partial(order, user))}
        for user, prompts in found.items()
    }
