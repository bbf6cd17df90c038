"""First batches are read from the log of a run, that of the first start of each stage."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from tunesmith.events import from_json
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_run
from tunesmith_evidence.report.first_batch import FirstBatch, TokenRow, read_first_batches

ROW = TokenRow(title="row 1", tokens=3, trained=1, pieces=["<s>", "", "é"], marks="Cct")
BATCH = FirstBatch(layout="packed", tokens=3, padding=0, micro_batches=1, rows=[ROW])


def write(folder: Path, *lines: object) -> Path:
    log = folder / "events.jsonl"
    log.write_text("".join(encode_json(line) + "\n" for line in lines))
    return log


def test_the_first_one_of_each_stage_counts(tmp_path: Path) -> None:
    again = replace(BATCH, tokens=99)
    reward = replace(BATCH, stage="reward", layout="shared")
    events = [*sample_run(), BATCH, reward, again]
    found = read_first_batches(write(tmp_path, *(event.to_json() for event in events)))
    assert found == {"": BATCH, "reward": reward}
    assert from_json(BATCH.to_json()) == BATCH


def test_pieces_have_a_role_each() -> None:
    assert list(ROW) == [
        ("<s>", "context", True),
        ("", "context", False),
        ("é", "trained", False),
    ]
    assert [role for _, role, _ in replace(ROW, marks="SO?")] == ["scored", "omitted", "context"]


def test_an_event_of_another_version_or_no_log_is_none(tmp_path: Path) -> None:
    assert read_first_batches(tmp_path / "events.jsonl") == {}
    damaged = {**BATCH.to_json(), "rows": 5}
    assert read_first_batches(write(tmp_path, damaged)) == {}
