"""Pilots train on fewer rows, and are measured on the same test rows."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.fixtures.python.bench import Bench, rows

from tunesmith.errors import IntegrityError
from tunesmith.events import Measured
from tunesmith.execution.run_data import load_data
from tunesmith.testing import sample_event
from tunesmith_evidence.pilots import RowValue, read_values, run_pilot


def test_a_probe_learns_from_fewer_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write_rows(rows(120))
    plan = bench.plan()
    _, parts = load_data(plan)
    for count in (10, 20):
        folder = bench.folder(f"pilot-{count}")
        report = run_pilot(plan, bench.catalog, parts, count, folder)
        assert report.training_started[""].rows == count
        assert {model for model, _, _ in report.measured} == {"tuned"}
        (measured,) = report.measured.values()
        values = read_values(folder.path, measured)
        assert sorted(values) == list(range(len(parts.test)))


def test_values_have_weights_and_groups(tmp_path: Path) -> None:
    """A row without tokens has no loss: it is skipped, and is no row with the loss 0."""
    measured = sample_event(Measured, metric="loss", records="rows.jsonl")
    (tmp_path / "rows.jsonl").write_text(
        '{"row":0,"loss":{"value":2.5,"weight":4},"group":"a"}\n'
        '{"row":1,"loss":{"value":0,"weight":0}}\n'
        '{"row":7,"loss":{"value":1,"weight":1}}\n'
    )
    assert read_values(tmp_path, measured) == {0: RowValue(2.5, 4.0, "a"), 7: RowValue(1.0)}
    (tmp_path / "rows.jsonl").write_text('{"row":0}\n')
    with pytest.raises(IntegrityError, match="is damaged"):
        read_values(tmp_path, measured)
