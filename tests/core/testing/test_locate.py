"""A failed check names the line of the plugin's code to look at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.plugins import Selection, find_plugins
from tunesmith.testing import run_checks
from tunesmith.testing.kit import collect_checks
from tunesmith.testing.locate import locate_fault

SOURCE = """from tunesmith.contracts import Measurement
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options


class Mine(Options):
    odd: int = 3


class Constant:
    def measure(self, model, records):
        if not records:
            raise KeyError("no records")
        return [Measurement(metric="one", values=(1.0,) * len(records))]


@hookimpl
def tunesmith_evaluators():
    metrics = (Metric(name="one", higher_is_better=True),)
    return [EvaluatorOffer(name="one", summary="one", config=Mine,
                           build=lambda options: Constant(), metrics=metrics)]
"""


def test_each_failure_has_its_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.py").write_text(SOURCE, encoding="utf-8")
    found = find_plugins(Selection(allowed=frozenset({"one"}), files=("one.py",)))
    module = found.manager.get_plugin("file:one")
    assert module is not None
    results = {r.check: r for r in run_checks(module) if r.state == "failed"}
    assert {name: result.where for name, result in results.items()} == {
        "every_option_has_help": "one.py:7",
        "perfect_model_scores_best": "one.py:12",
        "handles_empty": "one.py:14",
    }
    assert all(r.where == "" for r in run_checks(module) if r.state != "failed")


def test_a_module_without_source_has_no_line() -> None:
    from mutations import specimen

    check = next(iter(collect_checks(specimen("evaluators"))))
    assert locate_fault(check.subject, "plugin", ValueError("x")) == ""
