"""A log is read once, whatever happens to its file."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tunesmith_tui import event_tail
from tunesmith_tui.event_tail import EventTail


def read_all(tail: EventTail) -> list[bytes]:
    lines = []
    tail.check()
    while tail.is_behind:
        lines += tail.read()
    return lines


@pytest.mark.parametrize("seed", range(5))
def test_lines_do_not_depend_on_how_the_file_grows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(event_tail, "CHUNK", 16)
    chance = random.Random(seed)
    lines = [b"x" * chance.randrange(60) for _ in range(50)]
    content = b"".join(line + b"\n" for line in lines)
    path, found = tmp_path / "log", []
    path.touch()
    tail = EventTail(path)
    while content:
        size = chance.randrange(1, 40)
        with path.open("ab") as file:
            file.write(content[:size])
        content = content[size:]
        found += read_all(tail)
    assert found == lines


def test_bytes_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\n")
    tail = EventTail(path)
    assert read_all(tail) == [b"one"]
    # The start is overwritten without a change of size: only what follows is read.
    with path.open("r+b") as file:
        file.write(b"ONE\ntwo\n")
    assert read_all(tail) == [b"two"]


def test_an_incomplete_line_waits_for_its_end_and_may_be_removed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b'one\n{"half')
    tail = EventTail(path)
    assert read_all(tail) == [b"one"] and not tail.is_behind
    os.truncate(path, 4)  # as a resumed run does
    assert not tail.check()
    with path.open("ab") as file:
        file.write(b"two\n")
    assert read_all(tail) == [b"two"]


@pytest.mark.parametrize("replaces", [True, False])
def test_a_replaced_or_cut_log_is_read_again(tmp_path: Path, replaces: bool) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"one\ntwo\n")
    tail = EventTail(path)
    read_all(tail)
    if replaces:
        (tmp_path / "new").write_bytes(b"three\nfour\nfive\n")
        (tmp_path / "new").replace(path)
    else:
        path.write_bytes(b"three\n")
    assert tail.check()
    assert tail.read()[0] == b"three"


def test_a_line_without_end_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_tail, "CHUNK", 16)
    monkeypatch.setattr(event_tail, "MAX_LINE", 64)
    path = tmp_path / "log"
    path.write_bytes(b"one\n" + b"x" * 1_000 + b"\ntwo\n")
    tail = EventTail(path, _reach=16)
    assert read_all(tail) == [b"one", b"", b"two"]
    assert tail._reach <= 256


def test_a_log_that_is_missing_or_not_a_file(tmp_path: Path) -> None:
    tail = EventTail(tmp_path / "log")
    assert read_all(tail) == [] and not tail.exists
    os.mkfifo(tmp_path / "log")
    assert read_all(tail) == [] and not tail.exists
