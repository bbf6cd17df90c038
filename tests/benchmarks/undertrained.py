"""Tiny runs with too little training and with enough: how often is each said to be underfitted?

``python -m tests.benchmarks.undertrained`` runs those of the report; ``--first`` another seed.

Every run is complete, from a run file to its verdict. A row asks about an order, and a word of the
question decides about the queue that is the answer; one answer in ten is another queue in half of
the runs. A classifier is measured, too, and a model that learned the rule would be as good.
Settings are drawn at random: learning rates over a factor of 60, one to 16 epochs, with and without
validation rows. A second run has the same rows and much more training, and counts as well. A run is
undertrained if the better one, or the classifier, gets at least :data:`MUCH` more of the test
rows right, and had enough if at most :data:`LITTLE` more.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith_evidence.fit import FitDiagnosis, diagnose_fit
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUNS = 60
FIRST_SEED = 1_000
TEST = 60
QUEUES = {"card": "one", "refund": "two", "delivery": "three", "invoice": "four", "ticket": "five"}
MUCH, LITTLE = 0.15, 0.02
ENOUGH = {"learning_rate": 6e-3, "epochs": 24}
AGAINST = ("PROMPT", "SMALL CLASSIFIER", "NOTHING WORKS YET")


@dataclass(frozen=True)
class Trial:
    """A run, its diagnosis and its verdict."""

    seed: int
    settings: dict[str, Any]
    fit: FitDiagnosis
    word: str
    score: float
    reachable: float

    @property
    def kind(self) -> str:
        """The truth about its training."""
        missing = self.reachable - self.score
        return "undertrained" if missing >= MUCH else "enough" if missing <= LITTLE else "between"


def write_rows(path: Path, rng: random.Random, count: int, wrong: float) -> None:
    """Write rows of which a share has the label of another topic."""
    lines = []
    for _ in range(count):
        topic, number = rng.choice(sorted(QUEUES)), rng.randrange(10_000)
        label = rng.choice(sorted(QUEUES)) if rng.random() < wrong else topic
        row = {"prompt": f"What is the {topic} {number} about?", "completion": QUEUES[label]}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def choose_settings(rng: random.Random) -> dict[str, Any]:
    """Return the technique's table of a run."""
    return {
        "learning_rate": 10 ** rng.uniform(-4, -2.2),
        "epochs": rng.choice([1, 2, 4, 8, 16]),
        "schedule": {"type": rng.choice(["cosine", "linear", "constant"])},
    }


def run_once(
    folder: Path, seed: int, settings: dict[str, Any], validation: int
) -> tuple[FitDiagnosis, str, dict[str, float]]:
    """Execute one run; return the diagnosis, the word, and the accuracy of each model."""
    technique = {"use": "full", "batch_size": 8, "precision": "fp32", **settings}
    tables = {
        "reporters": [],
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "../model"},
        "data": {"use": "jsonl", "train": ["../rows.jsonl"], "test_size": TEST},
        "split": {"near_duplicates": False, "validation_size": validation},
        "technique": technique,
        "evaluators": [{"use": "classification"}, {"use": "loss"}],
        "baselines": {"use": ["majority", "linear"]},
    }
    folder.mkdir()
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    report = tunesmith.run(folder / "run.toml", out=folder / "run").report
    fit = diagnose_fit(folder / "run", report)
    assert fit is not None and report.finished is not None
    scores = {
        event.model: event.value for event in report.measured.values() if event.metric == "accuracy"
    }
    return fit, report.finished.verdict["word"], scores


def run_trials(first_seed: int, count: int = RUNS) -> Iterator[Trial]:
    """Yield the runs of ``count`` seeds."""
    for seed in range(first_seed, first_seed + count):
        rng = random.Random(seed)
        settings, validation, wrong = (
            choose_settings(rng),
            rng.choice([0, 30]),
            rng.choice([0.0, 0.1]),
        )
        with tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
            folder = Path(name)
            save_tiny_model(folder / "model", seed=seed)
            write_rows(folder / "rows.jsonl", rng, rng.randrange(150, 240), wrong)
            runs = [
                (chosen, run_once(folder / name, seed, chosen, validation))
                for name, chosen in (("first", settings), ("enough", ENOUGH))
            ]
        reachable = max(score for _, (_, _, scores) in runs for score in scores.values())
        for chosen, (fit, word, scores) in runs:
            described = {**chosen, "validation": validation, "wrong": wrong}
            yield Trial(seed, described, fit, word, scores["tuned"], reachable)


def count_states(trials: Sequence[Trial], kind: str) -> Counter[str]:
    """Return how often each state is said of the runs of a kind."""
    return Counter(trial.fit.state for trial in trials if trial.kind == kind)


def count_against(trials: Sequence[Trial], kind: str) -> int:
    """Return the number of runs of a kind whose word advises against tuning."""
    return sum(trial.word in AGAINST for trial in trials if trial.kind == kind)


def main() -> None:
    """Print each run, and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--first", type=int, default=FIRST_SEED)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    trials = []
    for trial in run_trials(arguments.first, arguments.runs):
        trials.append(trial)
        values = {name: round(value, 3) for name, value in trial.fit.values.items()}
        print(
            f"{trial.seed} {trial.kind} {trial.score:.2f}/{trial.reachable:.2f} "
            f"{trial.fit.state} {trial.word} {values} {trial.settings}",
            flush=True,
        )
    for kind in ("undertrained", "between", "enough"):
        states, against = count_states(trials, kind), count_against(trials, kind)
        print(f"{kind}: {dict(states)}; {against} words against tuning")


if __name__ == "__main__":
    main()
