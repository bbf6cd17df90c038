"""Probes train on fewer rows, and are measured on the same held-out rows."""

from __future__ import annotations

from pathlib import Path

from tests.fixtures.python.bench import Bench, rows

from tunesmith.execution.run_data import load_data
from tunesmith_evidence.probes import read_values, run_probe


def test_a_probe_learns_from_fewer_rows(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write_rows(rows(120))
    plan = bench.plan()
    _, parts = load_data(plan)
    for count in (10, 20):
        folder = bench.folder(f"probe-{count}")
        report = run_probe(plan, bench.catalog, parts, count, folder)
        assert report.training_started[""].rows == count
        assert {model for model, _, _ in report.measured} == {"tuned"}
        (measured,) = report.measured.values()
        values = read_values(folder.path, measured)
        assert sorted(values) == list(range(len(parts.heldout)))
