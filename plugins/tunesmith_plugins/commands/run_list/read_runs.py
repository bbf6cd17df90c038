"""Summarize runs for a list, reading only the first and the last line of each log."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith.events import JSON
from tunesmith.storage import find_runs
from tunesmith_evidence.report.ending import is_running

TAIL_BYTES = 1 << 16
"""Number of bytes to read from the end of a log; more are read if the last line is longer."""
Status = Literal["ok", "failed", "stopped", "running", "unfinished", "damaged"]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """The status, parts and result of a run, as listed by ``tunesmith runs``."""

    path: Path
    status: Status
    name: str = ""
    started: str = ""
    """Time in UTC (ISO 8601), or "" if unknown."""
    model: str = ""
    technique: str = ""
    word: str = ""
    """The verdict, or "" if there is none."""
    metric: str = ""
    value: float | None = None
    """Score of the tuned model by the verdict's metric."""
    error: str = ""
    parent: str = ""
    """Folder of the listed run that this run continues, starts from or trains on."""
    inputs: tuple[str, ...] = ()
    """Absolute paths in the plan: the base model, the data, and the run that it continues."""
    bytes: int = 0

    @property
    def is_resumable(self) -> bool:
        """True if ``tunesmith resume`` can continue the run."""
        return (
            self.status in ("failed", "stopped", "unfinished")
            and (self.path / "run.toml").is_file()
        )

    def to_json(self) -> JSON:
        """Return the run as JSON."""
        fields = {**asdict(self), "path": str(self.path), "resumable": self.is_resumable}
        return {name: value for name, value in fields.items() if name != "inputs"}


def read_runs(root: Path) -> list[RunSummary]:
    """Return the runs in a folder, newest first, each linked to the run that it starts from."""
    runs = [read_run(path) for path in find_runs(root)]
    runs.sort(key=lambda run: (run.started, run.path.name), reverse=True)
    return [replace(run, parent=_find_parent(run, runs)) for run in runs]


def read_run(path: Path) -> RunSummary:
    """Return the summary of a run."""
    size = measure_size(path)
    try:
        first, last = read_first_and_last_event(path / "events.jsonl")
        if not first:
            status: Status = "running" if is_running(path) else "unfinished"
            return RunSummary(path=path, status=status, bytes=size)
        return _summarize(path, first, last, size)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        return RunSummary(path=path, status="damaged", bytes=size)


def _summarize(path: Path, first: JSON, last: JSON, size: int) -> RunSummary:
    plan = first["plan"]
    is_finished = last.get("event") == "run-finished"
    verdict = last.get("verdict", {}) if is_finished else {}
    status: Status = last["status"] if is_finished else "unfinished"
    value = verdict.get("tuned")
    return RunSummary(
        path=path,
        status="running" if not is_finished and is_running(path) else status,
        name=str(first["name"]),
        started=str(first["started"]),
        model=str(plan["model"]["base"]),
        technique=str(plan["technique"]["use"]),
        word=str(verdict.get("word", "")),
        metric=str(verdict.get("metric", "")),
        value=float(value) if isinstance(value, int | float) else None,
        error=str(last.get("error", "")) if is_finished else "",
        inputs=tuple(_paths([plan["model"]["base"], plan["data"], plan.get("lineage")]))
        + tuple(_paths(plan["technique"].get("from"))),
        bytes=size,
    )


def read_first_and_last_event(path: Path) -> tuple[JSON, JSON]:
    """Return the first and the last complete event of a log, or two empty dicts without events.

    Raises:
        ValueError: a line is not a JSON object.
    """
    if not path.is_file():
        return {}, {}
    with path.open("rb") as file:
        first = file.readline()
        if not first.endswith(b"\n"):
            return {}, {}
        size = file.seek(0, os.SEEK_END)
        length = min(TAIL_BYTES, size)
        while True:
            file.seek(size - length)
            tail = file.read(length)
            lines = tail[: tail.rfind(b"\n") + 1].splitlines()
            if len(lines) > 1 or length == size:
                break
            length = min(2 * length, size)
    return _decode(first), _decode(lines[-1])


def _decode(line: bytes) -> JSON:
    value = json.loads(line)
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")
    return value


def measure_size(path: Path) -> int:
    """Return the total size in bytes of all files below a folder, without following links."""
    total, pending = 0, [str(path)]
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
                    elif entry.is_file(follow_symlinks=False):
                        total += entry.stat(follow_symlinks=False).st_size
        except OSError:
            continue  # deleted in the meantime
    return total


def _paths(value: Any) -> Iterator[str]:
    """Yield all absolute paths that occur in a part of the plan."""
    if isinstance(value, str) and os.path.isabs(value):
        yield os.path.normpath(value)
    elif isinstance(value, dict):
        yield from _paths([*value.values()])
    elif isinstance(value, list):
        for item in value:
            yield from _paths(item)


def _find_parent(run: RunSummary, runs: Sequence[RunSummary]) -> str:
    for other in runs:
        folder = os.path.abspath(other.path) + os.sep
        if other is not run and any((path + os.sep).startswith(folder) for path in run.inputs):
            return str(other.path)
    return ""
