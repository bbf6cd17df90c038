"""A run with ``review``: from the run file to the verdict, the report, the server and Python."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

import tunesmith as api
from tunesmith.errors import UsageError
from tunesmith.storage import RunFolder
from tunesmith_plugins.commands.serve.run_models import find_served_policies

TABLES = """
[model]
base = "fake:one"
[data]
use = "lines"
train = "data.tsv"
test_size = 60
[split]
validation_size = 120
[technique]
use = "by-heart"
[baselines]
use = ["majority", "linear"]
linear = { c = [10] }
[[evaluators]]
use = "exact-match"
"""
REVIEW = '[[evaluators]]\nuse = "review"\nprecision = 0.9\n'
Tunesmith = Callable[..., Result]
WORDS = {"red": "RED", "green": "GREEN", "blue": "BLUE"}


def run(tunesmith: Tunesmith, root: Path, tables: str, rows: int) -> Path:
    """Run on requests that a classifier answers, except for unreadable ones; return the folder."""
    rng, lines = random.Random(0), []
    for _ in range(rows):
        word = rng.choice([*WORDS])
        noise = "".join(rng.choices("bcdfghjklmnpqrstvwxz", k=12))
        lines.append(f"{noise if rng.random() < 0.3 else word} {noise}\t{WORDS[word]}\n")
    (root / "data.tsv").write_text("".join(lines))
    (root / "run.toml").write_text(tables)
    result = tunesmith("run", "run.toml", "--out", "done")
    assert result.exit_code == 0, result.output
    return root / "done"


def test_a_run_says_which_share_needs_no_person(tunesmith: Tunesmith, tmp_path: Path) -> None:
    folder = run(tunesmith, tmp_path, TABLES + REVIEW, 260)
    report = json.loads((folder / "report.json").read_text())
    measured = {(e["model"], e["metric"]): e for e in report["evaluations"]}
    right = measured["linear", "exact-match"]["value"]
    automated = measured["linear", "automated"]
    assert right < 0.9 and 0.4 < automated["value"] < 0.9
    assert measured["linear", "automated-right"]["value"] > right
    assert automated["details"]["review"]["precision"] == 0.9
    assert measured["majority", "automated"]["value"] == 0
    verdict = report["verdict"]
    assert verdict["review"]["linear"]["automated"]["value"] == automated["value"]
    assert "requests that need no person, required precision 90 %: " in verdict["sentence"]
    shown = " ".join(tunesmith("report", folder).output.split())
    assert "requests that need no person, required precision 90 %: " in shown
    rows = (folder / "evaluations" / "linear.review.jsonl").read_text().splitlines()
    assert len(rows) == 60 and all("confidence" in json.loads(row) for row in rows)

    opened = api.open_run(folder, trust_plugins=True)
    policy = opened.review("linear")
    assert policy.precision == 0.9 and policy.threshold is not None
    with pytest.raises(UsageError, match="no review policy"):
        opened.review("nearest")
    served = find_served_policies(RunFolder(folder))
    assert served["tuned"] == opened.review()
    assert served.get("winner") in (policy, None)


def test_without_review_nothing_is_measured_on_validation_rows(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    folder = run(tunesmith, tmp_path, TABLES.replace("120", "20"), 120)
    report = json.loads((folder / "report.json").read_text())
    assert "review" not in report["verdict"]
    assert {e["metric"] for e in report["evaluations"]} == {"exact-match"}
    assert find_served_policies(RunFolder(folder)) == {}
