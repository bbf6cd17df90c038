"""Rows that give no example are reported by cause, kept in a file, and limited in their share."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pytest

from tunesmith.contracts import Job, SkippedRow
from tunesmith.errors import DataError
from tunesmith.events import Event, FindingReported
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.example_store import ExampleStoreBuilder
from tunesmith_torch.data.streamed_examples import StreamedExamples
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.training.skipped_rows import (
    SKIPPED_FILE,
    StreamAccount,
    check_skipped_share,
    count_affected,
    describe_remedy,
    report_skipped,
)

LONG = [SkippedRow(where=f"r:{n}", cause="row is too long", detail="99 tokens") for n in range(3)]
REFUSED = SkippedRow(where="r:9", cause="the template refuses it", detail="no system role")


def job(folder: Path, events: list[Event]) -> Job[Any]:
    return Job(
        config=None,
        model=folder,
        train=(),
        validation=(),
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=events.append,
        technique="test",
    )


def lines(folder: Path) -> list[dict[str, str]]:
    text = (folder / SKIPPED_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def messages(events: list[Event]) -> list[str]:
    return [event.message for event in events if isinstance(event, FindingReported)]


def test_the_rows_that_the_loader_skipped_are_kept(tmp_path: Path) -> None:
    """The core writes them to a file of the same folder."""
    path = tmp_path / "skipped.jsonl"
    path.write_text("a row\n")
    report_skipped(job(tmp_path, []), LONG)
    report_skipped(job(tmp_path, []), [])
    assert path.read_text() == "a row\n"


def test_rows_are_reported_by_cause_and_written_to_a_file(tmp_path: Path) -> None:
    events: list[Event] = []
    report_skipped(job(tmp_path, events), [*LONG, REFUSED])
    assert messages(events) == [
        "skipped 3 rows: row is too long; first: r:0 (99 tokens)",
        "skipped 1 row: the template refuses it; first: r:9 (no system role)",
    ]
    assert [line["where"] for line in lines(tmp_path)] == ["r:0", "r:1", "r:2", "r:9"]


def test_the_share_is_limited() -> None:
    check_skipped_share(LONG, 300, 0.01)
    check_skipped_share([], 1, 0)
    with pytest.raises(DataError) as caught:
        check_skipped_share([*LONG, REFUSED], 399, 0.01)
    assert caught.value.exit_code == 3
    assert "skipped 4 of 399 rows" in caught.value.message
    assert "3 × row is too long, first at r:0 (99 tokens)" in caught.value.message
    assert "1 × the template refuses it, first at r:9" in caught.value.message
    assert list(caught.value.skipped) == [*LONG, REFUSED]


def test_the_hint_names_what_changes_the_limit() -> None:
    assert "max_length" not in describe_remedy(512, 4096), "the model's context is the limit"
    assert "context is longer than 512" in describe_remedy(512, 4096)
    assert "raise technique.max_length" in describe_remedy(512, 512)
    with pytest.raises(DataError) as caught:
        check_skipped_share(LONG, 3, 0, "the remedy")
    assert str(caught.value.hint).startswith("the remedy, or raise the technique's max_skipped")
    with pytest.raises(DataError) as caught:
        check_skipped_share([REFUSED], 3, 0, "the remedy")
    assert str(caught.value.hint).startswith("correct these rows, or")


def test_affected_rows_are_counted_by_cause() -> None:
    nothing = ExampleStoreBuilder().build()
    tokenized = TokenizedRecords(examples=nothing, skipped=[*LONG, REFUSED], truncated=[4, 5])
    expected = {"row is too long": 3, "the template refuses it": 1, "prompt was shortened": 2}
    assert count_affected(tokenized) == expected
    assert count_affected(TokenizedRecords(examples=nothing, skipped=(), split_texts=[1])) == {
        "text became several rows": 1
    }


@dataclass
class Stream:
    """Streamed examples of which each load finds the next rows to be unusable."""

    rows: int
    found: list[list[SkippedRow]]
    skipped: dict[str, SkippedRow] = field(default_factory=dict)
    skipped_in_advance: tuple[SkippedRow, ...] = ()
    seen: int = 0

    def __len__(self) -> int:
        return self.rows

    def load(self, rows: range) -> None:
        self.seen += len(rows)
        for row in self.found.pop(0) if self.found else []:
            self.skipped.setdefault(row.where, row)


def account(stream: Stream, folder: Path, events: list[Event], allowed: float) -> StreamAccount:
    return StreamAccount(job(folder, events), cast(StreamedExamples, stream), allowed)


def test_streamed_rows_are_counted_as_they_come(tmp_path: Path) -> None:
    events: list[Event] = []
    stream = Stream(1000, [[LONG[0]], [], [LONG[1], REFUSED]])
    loads = account(stream, tmp_path, events, 0.01)
    for _ in range(3):
        loads.load(range(8))
    assert [text.partition(";")[0] for text in messages(events)] == [
        "skipped rows: row is too long",
        "skipped rows: the template refuses it",
    ]
    assert [line["where"] for line in lines(tmp_path)] == ["r:0", "r:1", "r:9"]


def test_a_resumed_run_knows_the_rows_of_the_earlier_process(tmp_path: Path) -> None:
    events: list[Event] = []
    account(Stream(1000, [LONG[:2]]), tmp_path, events, 0.01).load(range(8))
    Checkpoints(tmp_path / "checkpoints").save(1, lambda folder: None)
    again = Stream(1000, [[*LONG]])
    loads = account(again, tmp_path, events, 0.01)
    assert list(again.skipped) == ["r:0", "r:1"]
    loads.load(range(8))
    assert [line["where"] for line in lines(tmp_path)] == ["r:0", "r:1", "r:2"]
    assert len(messages(events)) == 1


def test_a_damaged_line_of_the_earlier_process_is_named(tmp_path: Path) -> None:
    """A kill may leave a part of the last line."""
    account(Stream(1000, [LONG[:2]]), tmp_path, [], 0.01).load(range(8))
    Checkpoints(tmp_path / "checkpoints").save(1, lambda folder: None)
    path = tmp_path / SKIPPED_FILE
    path.write_bytes(path.read_bytes()[:-5])
    events: list[Event] = []
    again = Stream(1000, [])
    account(again, tmp_path, events, 0.01)
    assert list(again.skipped) == ["r:0"]
    assert [f"{path}:2: the line is damaged" in text for text in messages(events)] == [True]


@pytest.mark.parametrize(
    ("rows", "allowed", "seen", "ends"),
    [
        (100, 0.01, 8, True),  # 3 of 100 rows, whatever the others are
        (100_000, 0.01, 8, True),  # 3 of the first 8 are no chance
        (100_000, 0.01, 200, False),  # 3 of 200 may be
        (100_000, 0.5, 8, False),
    ],
)
def test_too_many_unusable_rows_end_the_run(
    tmp_path: Path, rows: int, allowed: float, seen: int, ends: bool
) -> None:
    loads = account(Stream(rows, [LONG]), tmp_path, [], allowed)
    if not ends:
        loads.load(range(seen))
        return
    with pytest.raises(DataError, match=r"skipped \d+ of"):
        loads.load(range(seen))
    assert len(lines(tmp_path)) == 3
