"""Read and write files of answer pairs: one JSON object per line, with the person's choice.

::

    {"prompt": [{"role": "user", "content": "..."}], "left": "...", "right": "...",
     "choice": "", "pair": "9f2c...", "left_sample": 1, "right_sample": 0}

In the terminal or in an editor, ``choice`` is set to ``left``, ``right``, ``tie`` or ``skip``. Each
answer is on a random side, which the sample numbers record. A person who favors one side therefore
does not favor one of the samples.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError, UsageError
from tunesmith.records import Message
from tunesmith.statistics import Interval, mean_interval
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_data import (
    UNUSABLE_CHARACTERS,
    RowError,
    parse_messages,
    parse_row,
    require_text,
)
from tunesmith_evidence.number_text import format_share

CHOICES = ("left", "right", "tie", "skip")


@dataclass(frozen=True)
class Pair:
    """A prompt, two answers to it, and a person's choice between them."""

    prompt: tuple[Message, ...]
    left: str
    right: str
    pair: str
    """Stable identifier: a digest of the prompt and the answers."""
    left_sample: int = 0
    right_sample: int = 1
    choice: str = ""

    def with_choice(self, choice: str) -> Pair:
        """Return the pair with the given choice."""
        return replace(self, choice=choice)

    def to_row(self) -> dict[str, Any]:
        """Return the pair as a line of the pairs file."""
        return {**asdict(self), "prompt": _to_json_messages(self.prompt)}

    def to_preference_row(self) -> dict[str, Any]:
        """Return the preference as a row for the ``jsonl`` loader, with ``pair`` as its origin."""
        chosen, rejected = (self.left, self.right)[:: 1 if self.choice == "left" else -1]
        row = {"prompt": _to_json_messages(self.prompt), "chosen": chosen, "rejected": rejected}
        return {**row, "pair": self.pair, "chose": self.choice}


def make_pairs(
    prompt: tuple[Message, ...], answers: Sequence[str], seed: int
) -> tuple[list[Pair], int]:
    """Return all pairs of different answers to a prompt, and the number of skipped pairs.

    Sides are assigned at random. A pair is skipped if its answers are equal, or if one is empty or
    contains control characters, because such answers cannot be trained on.
    """
    pairs, skipped = [], 0
    for samples in combinations(range(len(answers)), 2):
        first, second = (answers[sample] for sample in samples)
        if first == second or not (_is_usable(first) and _is_usable(second)):
            skipped += 1
            continue
        digest = hashlib.sha256(repr((prompt, first, second)).encode("utf-8", "surrogatepass"))
        pair = digest.hexdigest()[:16]
        left, right = random.Random(f"{seed} {pair}").sample(samples, 2)
        pairs.append(Pair(prompt, answers[left], answers[right], pair, left, right))
    return pairs, skipped


def read_pairs(path: Path) -> list[Pair]:
    """Read the answer pairs in a file.

    Raises:
        UsageError: the file cannot be read.
        DataError: the file contains no pairs, a line is not a pair, or its choice is unknown.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot read the file: {error.strerror}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_parse_pair(parse_row(line)))
            except RowError as error:
                text = f"{error}, {error.detail}" if error.detail else str(error)
                raise DataError(f"{path}:{number}", text, hint=error.hint or None) from None
    if not pairs:
        raise DataError(
            str(path),
            "contains no pairs",
            hint="write pairs with `tunesmith data annotate --run RUN --out FILE`",
        )
    return pairs


def write_pairs(path: Path, pairs: Sequence[Pair]) -> bytes:
    """Write pairs to a file, replacing it atomically, and return the bytes written."""
    text = "".join(json.dumps(pair.to_row(), ensure_ascii=False) + "\n" for pair in pairs)
    content = text.encode("utf-8")
    write_atomic(path, content)
    return content


@dataclass(frozen=True)
class ChoiceCounts:
    """The number of pairs for each choice, and the share of left answers among preferences."""

    preferences: int
    ties: int
    skipped: int
    open: int
    left_share: Interval | None
    """Share of preferences for the left answer; near 50 % if the side has no influence."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> ChoiceCounts:
        """Count the choices of these pairs."""
        counts = Counter(pair.choice for pair in pairs)
        sides = [float(pair.choice == "left") for pair in pairs if pair.choice in CHOICES[:2]]
        share = mean_interval(sides) if sides else None
        return cls(len(sides), counts["tie"], counts["skip"], counts[""], share)

    def to_text(self) -> str:
        """Return the counts as a sentence."""
        preferences = format_count(self.preferences, "preference")
        text = f"{preferences}, {format_count(self.ties, 'tie')}, {self.skipped} skipped"
        text += f", {self.open} still open"
        if (share := self.left_share) is not None:
            text += f"; the left answer won {format_share(share.value)}"
            text += f" [{format_share(share.low)}, {format_share(share.high)}]"
        return text


def preference_lines(pairs: Sequence[Pair]) -> Iterator[str]:
    """Yield the lines of a preference file; omit ties, skipped pairs and undecided pairs."""
    for pair in pairs:
        if pair.choice in CHOICES[:2]:
            yield json.dumps(pair.to_preference_row(), ensure_ascii=False) + "\n"


def _is_usable(answer: str) -> bool:
    return bool(answer.strip()) and UNUSABLE_CHARACTERS.search(answer) is None


def _parse_pair(row: dict[str, Any]) -> Pair:
    prompt = parse_messages(row.get("prompt"), "`prompt`", split_inline=False)
    texts = {name: require_text(row.get(name), f"`{name}`") for name in ("left", "right", "pair")}
    choice = require_text(row.get("choice", ""), "`choice`").strip().lower()
    if choice and choice not in CHOICES:
        raise RowError("unknown choice", f'"{choice}"; known: {", ".join(CHOICES)}')
    samples = row.get("left_sample", 0), row.get("right_sample", 1)
    if not all(isinstance(sample, int) for sample in samples):
        raise RowError("a sample number is not an integer", repr(samples))
    return Pair(prompt, texts["left"], texts["right"], texts["pair"], *samples, choice)


def _to_json_messages(prompt: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.text} for message in prompt]
