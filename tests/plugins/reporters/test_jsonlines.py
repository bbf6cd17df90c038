"""The jsonlines reporter: every event, one line each, strictly JSON and ASCII."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from tunesmith.events import Event, Noticed, PhaseAdvanced, PhaseEnded, from_json
from tunesmith.storage import RunFolder
from tunesmith_plugins.reporters.jsonlines.offer import JSONLINES, JsonlinesOptions

EVENTS: list[Event] = [
    PhaseAdvanced(phase="x", done=3),
    Noticed(level="warning", source="a", message="\x1b[31mline\nbreak \u2028 \ud800 é"),
    PhaseEnded(phase="x", seconds=math.nan),
]


def told(path: str, folder: Path) -> None:
    with JSONLINES.build(JsonlinesOptions(path=path), RunFolder(folder)) as reporter:
        for event in EVENTS:
            reporter.report(event)


@pytest.mark.parametrize("path", ["out.jsonl", "sub/out.jsonl"])
def test_a_file_below_the_run(tmp_path: Path, path: str) -> None:
    told(path, tmp_path)
    told(path, tmp_path)
    raw = (tmp_path / path).read_bytes()
    assert raw.isascii() and b"\x1b" not in raw
    lines = raw.decode().splitlines()
    assert len(lines) == 2 * len(EVENTS)
    for line in lines:
        json.loads(line, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [from_json(json.loads(line)) for line in lines[:2]] == EVENTS[:2]


def test_an_absolute_file(tmp_path: Path) -> None:
    told(str(tmp_path / "else.jsonl"), tmp_path / "run")
    assert (tmp_path / "else.jsonl").read_text().count("\n") == len(EVENTS)


def test_stdout_is_left_open(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told("-", tmp_path)
    print("still open")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(EVENTS) + 1 and lines[-1] == "still open"


def test_each_event_is_written_at_once(tmp_path: Path) -> None:
    reporter = JSONLINES.build(JsonlinesOptions(path="out.jsonl"), RunFolder(tmp_path))
    with reporter:
        reporter.report(EVENTS[0])
        assert (tmp_path / "out.jsonl").read_text().endswith("}\n")


def test_it_is_not_used_unasked() -> None:
    assert JSONLINES.by_default is False
