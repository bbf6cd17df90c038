"""Pairs of answers in a file: one JSON object a line, with a field for what a person chose.

::

    {"prompt": [{"role": "user", "content": "..."}], "left": "...", "right": "...",
     "choice": "", "pair": "9f2c...", "left_sample": 1, "right_sample": 0}

``choice`` becomes ``left``, ``right``, ``tie`` or ``skip``, by hand or in a session. Which of two
answers stands on the left is drawn, and the numbers of the samples record it, so that a liking for
one side cannot become a liking for anything else.
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
from tunesmith_data import Fault
from tunesmith_data.json_line import parse_row
from tunesmith_data.turns import UNUSABLE, clean, messages_of

CHOICES = ("left", "right", "tie", "skip")


@dataclass(frozen=True)
class Pair:
    """A prompt, two answers to it, and what a person made of them."""

    prompt: tuple[Message, ...]
    left: str
    right: str
    pair: str
    """A name that stays: a digest of prompt and answers."""
    left_sample: int = 0
    right_sample: int = 1
    choice: str = ""

    def chosen(self, choice: str) -> Pair:
        """The pair with this choice."""
        return replace(self, choice=choice)

    def row(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {**asdict(self), "prompt": _turns(self.prompt)}

    def preference(self) -> dict[str, Any]:
        """As a row that the ``jsonl`` loader reads; ``pair`` and ``chose`` say where it is from."""
        better, worse = (self.left, self.right)[:: 1 if self.choice == "left" else -1]
        row = {"prompt": _turns(self.prompt), "chosen": better, "rejected": worse}
        return {**row, "pair": self.pair, "chose": self.choice}


def made_from(
    prompt: tuple[Message, ...], answers: Sequence[str], seed: int
) -> tuple[list[Pair], int]:
    """All pairs of different answers to a prompt, sides drawn; and how many were left out.

    Two equal answers are no question; an empty one, or one that is no text, cannot be learned.
    """
    made, left_out = [], 0
    for sides in combinations(range(len(answers)), 2):
        one, other = (answers[side] for side in sides)
        if one == other or not (_usable(one) and _usable(other)):
            left_out += 1
            continue
        name = hashlib.sha256(repr((prompt, one, other)).encode("utf-8", "surrogatepass"))
        pair = name.hexdigest()[:16]
        left, right = random.Random(f"{seed} {pair}").sample(sides, 2)
        made.append(Pair(prompt, answers[left], answers[right], pair, left, right))
    return made, left_out


def read(path: Path) -> list[Pair]:
    """The pairs of a file.

    Raises:
        UsageError: there is no such file.
        DataError: a line is no pair, or its choice is none of those that there are.
    """
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise UsageError(f"{path}: cannot be read, {error.strerror}") from None
    pairs = []
    for number, line in enumerate(lines, 1):
        if line.strip():
            try:
                pairs.append(_pair(parse_row(line)))
            except Fault as fault:
                text = f"{fault}, {fault.detail}" if fault.detail else str(fault)
                raise DataError(f"{path}:{number}", text, hint=fault.hint or None) from None
    if not pairs:
        raise DataError(str(path), "holds no pairs")
    return pairs


def write(path: Path, pairs: Sequence[Pair]) -> bytes:
    """Replace the file as a whole, or leave it as it is; what was written."""
    text = "".join(json.dumps(pair.row(), ensure_ascii=False) + "\n" for pair in pairs)
    content = text.encode("utf-8")
    write_atomic(path, content)
    return content


@dataclass(frozen=True)
class Tally:
    """What came of annotating."""

    preferences: int
    ties: int
    skipped: int
    open: int
    left_share: Interval | None
    """How often the left one of two answers was chosen; one half, if sides have no say."""

    @classmethod
    def of(cls, pairs: Sequence[Pair]) -> Tally:
        """Count."""
        counts = Counter(pair.choice for pair in pairs)
        sides = [float(pair.choice == "left") for pair in pairs if pair.choice in CHOICES[:2]]
        share = mean_interval(sides) if sides else None
        return cls(len(sides), counts["tie"], counts["skip"], counts[""], share)

    def sentence(self) -> str:
        """For people."""
        text = f"{self.preferences} preferences, {self.ties} ties, {self.skipped} skipped"
        text += f", {self.open} still open"
        if (share := self.left_share) is not None:
            text += f"; the left answer was chosen in {share.value:.0%}"
            text += f" [{share.low:.0%}, {share.high:.0%}]"
        return text


def preferences(pairs: Sequence[Pair]) -> Iterator[str]:
    """Lines of a file of preferences; ties, skipped and open pairs give none."""
    for pair in pairs:
        if pair.choice in CHOICES[:2]:
            yield json.dumps(pair.preference(), ensure_ascii=False) + "\n"


def _usable(answer: str) -> bool:
    return bool(answer.strip()) and UNUSABLE.search(answer) is None


def _pair(row: dict[str, Any]) -> Pair:
    prompt = messages_of(row.get("prompt"), "`prompt`")
    texts = {name: clean(row.get(name), f"`{name}`") for name in ("left", "right", "pair")}
    choice = clean(row.get("choice", ""), "`choice`").strip().lower()
    if choice and choice not in CHOICES:
        raise Fault("unknown choice", f'"{choice}"; known: {", ".join(CHOICES)}')
    samples = row.get("left_sample", 0), row.get("right_sample", 1)
    if not all(isinstance(sample, int) for sample in samples):
        raise Fault("a sample has no number", repr(samples))
    return Pair(prompt, texts["left"], texts["right"], texts["pair"], *samples, choice)


def _turns(prompt: tuple[Message, ...]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in prompt]
