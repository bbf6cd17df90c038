"""Rows of earlier tasks, in the order of their replay, and the log of those that were trained on.

The n-th replayed row of a training run is a function of n alone. So the rows of a step follow from
its number, and a resumed run replays the same rows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from pathlib import Path
from random import Random
from typing import Literal

from tunesmith.contracts import Generation
from tunesmith.errors import DataError
from tunesmith.records import Completion, Record, last_exchange
from tunesmith.storage import write_atomic
from tunesmith_continual.chain import Task, row_id

OWN_PROMPTS = Path(__file__).with_name("general_prompts.txt")


@dataclass(frozen=True)
class ReplayRow:
    """A row that may be replayed, and the run that it comes from."""

    run: str
    record: Record
    is_cut: bool = False
    """True if the answer was cut off, so that the model must not learn to end there."""

    @property
    def id(self) -> str:
        """Digest of the row's content, so equal rows of several runs share it."""
        return row_id(self.record)


def read_earlier_rows(folders: Sequence[str]) -> list[ReplayRow]:
    """Return the training rows of earlier runs.

    Raises:
        DataError: no row is left.
    """
    tasks = [Task.open(Path(folder)) for folder in folders]
    rows = [ReplayRow(str(task.path), record) for task in tasks for record in task.training_rows()]
    if not rows:
        raise DataError("retention.earlier", "the earlier runs have no training row left")
    return rows


def order_rows(
    rows: Sequence[ReplayRow],
    by: Literal["random", "class", "surprise"],
    seed: int,
    losses: Sequence[float] = (),
) -> list[int]:
    """Return the numbers of the rows in the order of their replay.

    With ``random``, the runs take turns, so that few replayed rows are not all of one task. With
    ``class``, the answers of all runs take turns; ``surprise`` needs the loss of each row.
    """
    order = list(range(len(rows)))
    Random(f"{seed}/replay").shuffle(order)
    if by == "surprise":
        return sorted(order, key=lambda row: -losses[row])
    parts: dict[tuple[str, str], list[int]] = {}
    for row in order:
        answer = last_exchange(rows[row].record)[1].shown_text if by == "class" else ""
        parts.setdefault((rows[row].run, answer), []).append(row)
    turns = chain.from_iterable(zip_longest(*parts.values()))
    return [row for row in turns if row is not None]


def count_until(step: int, rate: float) -> int:
    """Return how many rows the steps before ``step`` replay, at ``rate`` rows per step."""
    return int(step * rate + 1e-9)


def digest_of(ids: Sequence[str]) -> bytes:
    """Return a digest of rows in their order."""
    return hashlib.sha256("\n".join(ids).encode()).digest()


class ReplayLog:
    """The file ``replayed.jsonl``: every row of an earlier task that this run was trained on.

    It is written before a row is used, so a deletion request for a row finds each model that
    learned from it.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "replayed.jsonl"
        content = self._path.read_bytes() if self._path.exists() else b""
        complete = content[: content.rfind(b"\n") + 1]
        if complete != content:  # a kill cut the last line
            write_atomic(self._path, complete)
        self._ids = {json.loads(line)["id"] for line in complete.splitlines()}

    def add(self, rows: Sequence[ReplayRow]) -> None:
        """Append the rows that are not in the file yet."""
        new = {row.id: row for row in rows if row.id not in self._ids}
        if new:
            entries = [
                {"id": key, "run": row.run, "source": row.record.source} for key, row in new.items()
            ]
            with self._path.open("a", encoding="utf-8") as file:
                file.write("".join(json.dumps(entry) + "\n" for entry in entries))
            self._ids |= new.keys()


def read_prompts(path: str | None) -> list[str]:
    """Return general prompts, from a file with one on each line.

    Raises:
        DataError: the file cannot be read, or has no prompt.
    """
    where = Path(path) if path else OWN_PROMPTS
    try:
        lines = where.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(where), f"cannot be read: {error}") from None
    if not (prompts := [line.strip() for line in lines if line.strip()]):
        raise DataError(str(where), "contains no prompt")
    return prompts


def write_answers(path: Path, prompts: Sequence[str], answers: Sequence[Generation]) -> None:
    """Store a model's own answers; answers without text are dropped."""
    rows = [
        {"prompt": prompt, "completion": answer.text, "cut": answer.finish_reason == "length"}
        for prompt, answer in zip(prompts, answers, strict=True)
        if answer.text.strip()
    ]
    write_atomic(path, "".join(json.dumps(row) + "\n" for row in rows))


def read_answers(path: Path) -> list[ReplayRow]:
    """Return the stored answers as rows."""
    stored = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        ReplayRow(
            "self",
            Completion(
                source=f"{path.name}:{number}", prompt=row["prompt"], completion=row["completion"]
            ),
            row["cut"],
        )
        for number, row in enumerate(stored, 1)
    ]
