"""Runs on made pairs: length decides the first ones, and content the second ones."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tunesmith
from tunesmith.execution.report import Report

pytestmark = pytest.mark.processes

WORDS = ["red", "blue", "green", "house", "tree", "river", "stone", "cloud", "bread", "chair"]
RUN_FILE = """
[model]
base = "{model}"

[data]
train = "{kind}-train.jsonl"
test = "{kind}-test.jsonl"

[technique]
use = "preference"
adapt = "full"
learning_rate = 3e-3
epochs = 2
batch_size = 8
{initial}

[baselines]
use = ["answer-length", "zero-shot"]

[[evaluators]]
use = "preference-accuracy"
length_normalized = true
"""


def words(rng: random.Random, fewest: int, most: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(fewest, most)))


def choose_longer(rng: random.Random) -> tuple[str, str]:
    return words(rng, 8, 12), words(rng, 2, 4)


def choose_polite(rng: random.Random) -> tuple[str, str]:
    return f"please {words(rng, 2, 9)} thanks", f"never {words(rng, 2, 9)} nobody"


def run(
    folder: Path, model: Path, kind: str, draw: Callable[[random.Random], tuple[str, str]]
) -> Report:
    rng = random.Random(0)
    for part, count in (("train", 80), ("test", 60)):
        rows = ({"prompt": f"{words(rng, 4, 6)} {n}", "pair": draw(rng)} for n in range(count))
        lines = (
            json.dumps(
                {"prompt": row["prompt"], "chosen": row["pair"][0], "rejected": row["pair"][1]}
            )
            for row in rows
        )
        (folder / f"{kind}-{part}.jsonl").write_text("\n".join(lines) + "\n")
    earlier = folder / "longer"
    initial = f'from = "{earlier}"' if kind != "longer" else ""
    run_file = folder / f"{kind}.toml"
    run_file.write_text(RUN_FILE.format(model=model, kind=kind, initial=initial))
    return tunesmith.run(run_file, out=folder / kind).report


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Iterator[list[Report]]:
    folder = tmp_path_factory.mktemp("preferences")
    draws = {"longer": choose_longer, "polite": choose_polite}
    yield [run(folder, tiny_folder, kind, draw) for kind, draw in draws.items()]


def test_length_that_decides_every_pair_is_named(reports: list[Report]) -> None:
    verdict = reports[0].verdict
    rule = reports[0].measured["answer-length", "preference-accuracy", "preference-accuracy"]
    assert rule.value == 1.0
    assert verdict["word"] == "NOT ENOUGH EVIDENCE"
    assert (
        'not even a perfect model would be clearly better than the rule "the longer answer'
        in (verdict["sentence"])
    )


def test_content_at_balanced_lengths_is_not_called_length(reports: list[Report]) -> None:
    report = reports[1]
    tuned = report.measured["tuned", "preference-accuracy", "equal-length-accuracy"]
    assert tuned.low > 0.5
    assert report.verdict["comparisons"]["answer-length"]["outcome"] == "better"
    assert "at equal length, the tuned model still prefers" in report.verdict["sentence"]
    assert "more than length" not in report.verdict["sentence"]


def test_the_model_that_training_started_from_is_compared_but_not_a_baseline(
    reports: list[Report],
) -> None:
    comparison = reports[1].verdict["comparisons"]["initial-model"]
    assert comparison["solution"] == "stage" and comparison["n"] == 60
    assert "initial-model" not in reports[0].verdict["comparisons"]
    assert reports[1].verdict["strongest"] in ("answer-length", "zero-shot")
