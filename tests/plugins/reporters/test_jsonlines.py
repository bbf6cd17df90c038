"""The jsonlines reporter writes every event as one line of strict JSON in ASCII."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith.errors import UsageError
from tunesmith.events import Event, FindingReported, PhaseAdvanced, PhaseEnded, from_json
from tunesmith.storage import RunFolder
from tunesmith_plugins.reporters.jsonlines import JSONLINES, JsonlinesOptions

EVENTS: list[Event] = [
    PhaseAdvanced(phase="x", done=3),
    FindingReported(level="warning", source="a", message="\x1b[31mline\nbreak \u2028 \ud800 é"),
    PhaseEnded(phase="x", seconds=math.nan),
]


def write_events(path: str, folder: Path) -> None:
    with JSONLINES.build(JsonlinesOptions(path=path), RunFolder(folder)) as reporter:
        for event in EVENTS:
            reporter.report(event)


@pytest.mark.parametrize("path", ["out.jsonl", "sub/out.jsonl"])
def test_relative_path_is_below_the_run_folder(tmp_path: Path, path: str) -> None:
    write_events(path, tmp_path)
    write_events(path, tmp_path)
    raw = (tmp_path / path).read_bytes()
    assert raw.isascii() and b"\x1b" not in raw
    lines = raw.decode().splitlines()
    assert len(lines) == 2 * len(EVENTS)
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [from_json(json.loads(line)) for line in lines[:2]] == EVENTS[:2]


def test_absolute_path(tmp_path: Path) -> None:
    write_events(str(tmp_path / "else.jsonl"), tmp_path / "run")
    assert (tmp_path / "else.jsonl").read_text().count("\n") == len(EVENTS)


@pytest.mark.parametrize("path", ["events.jsonl", "run.toml"])
def test_a_file_of_the_run_is_refused(tmp_path: Path, path: str) -> None:
    for chosen in (path, str(tmp_path / path)):
        with pytest.raises(UsageError, match="must not write to a file or folder of the run"):
            write_events(chosen, tmp_path)


def test_stdout_stays_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_events("-", tmp_path)
    print("still open")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS) + 1 and lines[-1] == "still open"


def test_each_event_is_flushed(tmp_path: Path) -> None:
    reporter = JSONLINES.build(JsonlinesOptions(path="out.jsonl"), RunFolder(tmp_path))
    with reporter:
        reporter.report(EVENTS[0])
        assert (tmp_path / "out.jsonl").read_text().endswith("}\n")


def test_is_not_used_by_default() -> None:
    assert JSONLINES.by_default is False
