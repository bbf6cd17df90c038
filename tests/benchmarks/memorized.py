"""Over-trained and clean tiny runs: how often each is said to be memorized.

``python -m tests.benchmarks.memorized`` runs those of the report; ``--choose`` those that the
threshold was chosen on, with other seeds.

Every run is complete, from a run file to its report. A row asks about an order and is answered by a
queue, which follows from a word of the question, and by words that follow from nothing: a model can
have them only by heart. Over-trained runs see their rows 60 to 90 times and keep the last step;
clean runs see them one to four times and keep the defaults. A run is over-trained if that can be
seen in its training rows: their loss is below half of what the words by chance cost a model that
does not know them.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith.execution.evaluate import read_rows
from tunesmith_evidence.fit import FitDiagnosis, diagnose_fit
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUNS = 40
FIRST_SEED, FIRST_SEED_TO_CHOOSE = 2_000, 0
KNOWN = 0.5
"""Share of the words by chance that an over-trained run knows at least."""
QUEUES = {"card": "one", "refund": "two", "delivery": "three", "invoice": "four", "ticket": "five"}
WORDS = ["yes", "no", "true", "false", "capital", "answer", "question", "system", "tool", "user"]
TEST = 40
CONSTANT = {"type": "constant"}


@dataclass(frozen=True)
class Trial:
    """A run and its diagnosis."""

    seed: int
    overtrained: bool
    settings: dict[str, Any]
    fit: FitDiagnosis
    known: float
    """Share of what the words by chance cost that the training rows do not cost any more."""

    @property
    def auc(self) -> float:
        return self.fit.values["auc"]


def write_rows(path: Path, rng: random.Random, count: int, free_words: int) -> None:
    """Write rows whose answers are a queue and ``free_words`` words by chance."""
    lines = []
    for _ in range(count):
        topic, number = rng.choice(sorted(QUEUES)), rng.randrange(10_000)
        answer = " ".join([QUEUES[topic], *rng.choices(WORDS, k=free_words)])
        row = {"prompt": f"What is the {topic} {number} about?", "completion": answer}
        lines.append(json.dumps(row) + "\n")
    path.write_text("".join(lines), encoding="utf-8")


def choose_settings(rng: random.Random, *, overtrained: bool) -> dict[str, Any]:
    """Return the technique's table of a run."""
    # Adapters on weights that are random and frozen learn nothing by heart, in so few steps.
    settings: dict[str, Any] = {
        "use": "full",
        "batch_size": rng.choice([8, 16]),
        "learning_rate": rng.choice([4e-3, 6e-3, 8e-3]),
        "precision": "fp32",
        "epochs": rng.choice([30, 45, 60]) if overtrained else rng.choice([1, 2, 3, 4]),
    }
    if overtrained:
        heavy = {"batch_size": 8, "epochs": rng.choice([60, 75, 90]), "schedule": CONSTANT}
        settings |= {**heavy, "validation": {"keep_best": False}}
    return settings


def run_trial(folder: Path, seed: int, *, overtrained: bool) -> Trial:
    """Execute one run and return its diagnosis."""
    rng = random.Random(f"{seed}/{overtrained}")
    settings = choose_settings(rng, overtrained=overtrained)
    rows = rng.randrange(30, 60) if overtrained else rng.randrange(60, 240)
    free_words = rng.choice([1, 2, 3]) if overtrained else rng.choice([0, 1, 2, 3])
    save_tiny_model(folder / "model", seed=seed)
    write_rows(folder / "rows.jsonl", rng, rows + TEST, free_words)
    tables = {
        "reporters": [],
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": ["rows.jsonl"], "test_size": TEST},
        "split": {"near_duplicates": False},
        "technique": settings,
        "evaluators": [{"use": "loss"}],
        "baselines": {"use": []},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    report = tunesmith.run(folder / "run.toml", out=folder / "run").report
    fit = diagnose_fit(folder / "run", report)
    assert fit is not None
    (trained,) = report.training_rows.values()
    measured = read_rows(folder / "run" / trained.records, trained.metric)
    tokens = math.fsum(row[trained.metric]["weight"] for row in measured)
    nats = trained.value * tokens / trained.n
    known = 1 - nats / (free_words * math.log(len(WORDS))) if free_words else 0.0
    described = {**settings, "rows": rows, "free_words": free_words}
    return Trial(seed, overtrained, described, fit, known)


def run_trials(
    first_seed: int, count: int = RUNS, kinds: Sequence[bool] = (True, False)
) -> Iterator[Trial]:
    """Yield the over-trained and the clean runs of ``count`` seeds."""
    for seed in range(first_seed, first_seed + count):
        for overtrained in kinds:
            with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
                yield run_trial(Path(folder), seed, overtrained=overtrained)


def are_overtrained(trials: Sequence[Trial]) -> bool:
    """Return True if the over-trained runs know their rows by heart, and no clean run does."""
    return all((trial.known >= KNOWN) == trial.overtrained for trial in trials)


def shares_memorized(trials: Sequence[Trial]) -> tuple[float, float]:
    """Return the share of over-trained runs, and of clean ones, that are said to be memorized."""
    shares = []
    for overtrained in (True, False):
        states = [t.fit.state for t in trials if t.overtrained == overtrained]
        shares.append(states.count("memorized") / len(states))
    return shares[0], shares[1]


def main() -> None:
    """Print each run, and the shares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--choose", action="store_true", help="the runs of the threshold")
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    trials = []
    for trial in run_trials(
        FIRST_SEED_TO_CHOOSE if arguments.choose else FIRST_SEED, arguments.runs
    ):
        trials.append(trial)
        kind = "over-trained" if trial.overtrained else "clean"
        values = {**trial.fit.values, "known": trial.known}
        print(f"{trial.seed} {kind} {trial.fit.state} {values} {trial.settings}", flush=True)
    print(
        f"over-trained runs know their rows by heart, clean ones do not: {are_overtrained(trials)}"
    )
    for name, share in zip(("over-trained", "clean"), shares_memorized(trials), strict=True):
        print(f"{name}: memorized in {share:.1%} of {arguments.runs} runs")


if __name__ == "__main__":
    main()
