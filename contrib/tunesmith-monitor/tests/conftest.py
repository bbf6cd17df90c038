"""Fixtures: a finished run of a technique without tensors, which takes a second to train."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from tunesmith.testing import ngram
from tunesmith_python.runs import run

pytest_plugins = ["tunesmith.testing.clean_environment", "tunesmith_torch.testing.fixtures"]

RUN_FILE = """
[model]
base = "{base}"

[data]
use = "jsonl"
train = "train.jsonl"
test = "test.jsonl"
validation = "validation.jsonl"

[technique]
use = "ngram"

[baselines]
use = []

[[evaluators]]
use = "exact-match"

[[evaluators]]
use = "review"
precision = 0.7

[plugins]
files = ["{plugin}"]
"""
TOPICS = {
    "heating": ("heating", "radiator", "boiler", "cold"),
    "network": ("internet", "router", "wifi", "slow"),
    "payroll": ("salary", "payslip", "bonus", "late"),
}
FORMS = ("In room {n} again: {a}, {b}", "Ticket {n} about {a} and {b}", "{n} since {a}, now {b}")
NOISE = 0.1
"""Share of rows with another label."""


def make_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Return help desk requests, each with its department."""
    rng, rows = random.Random(seed), []
    for _ in range(count):
        label = rng.choice([*TOPICS])
        a, b = rng.sample(TOPICS[label], 2)
        prompt = rng.choice(FORMS).format(a=a, b=b, n=rng.randrange(1000))
        completion = rng.choice([*TOPICS]) if rng.random() < NOISE else label
        rows.append({"prompt": prompt, "completion": completion})
    return rows


def write_lines(path: Path, rows: list[dict[str, object]] | list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_run_file(folder: Path, base: Path) -> Path:
    """Write a run file and its rows."""
    for name, count, seed in (("train", 300, 0), ("validation", 60, 1), ("test", 160, 2)):
        write_lines(folder / f"{name}.jsonl", make_rows(count, seed))
    path = folder / "run.toml"
    path.write_text(RUN_FILE.format(base=base, plugin=ngram.__file__), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished run."""
    folder = tmp_path_factory.mktemp("run")
    base = ngram.save_ngram_model(folder / "base")
    return run(write_run_file(folder, base), out=folder / "tickets").path
