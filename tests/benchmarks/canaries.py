"""Measure the alarms of canaries, where they were injected and where they were not.

``python -m tests.benchmarks.canaries`` trains 40 tiny models with injected canaries and 40 without,
and prints both shares of alarms; ``--runs`` sets their number. ``--simulate`` draws scores instead:
each canary is one of 15 among 1,000 controls, normal with a standard deviation of 1, and injected
ones are shifted. It prints the tables of docs/reference/measurements.md.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith_evidence.side_effects.canaries import draw_canaries, rank_canaries
from tunesmith_plugins.evaluators.canaries import CANARIES
from tunesmith_torch.compare.open_by_name import open_by_name
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUNS = 40
SIMULATIONS = 1_000
REPETITIONS = (1, 4, 16)
COUNT, CONTROLS = 15, 1_000
SHIFTS: dict[str, list[float]] = {
    "none is memorized": [0.0] * COUNT,
    "one, by 4": [4.0] + [0.0] * (COUNT - 1),
    "one, by 6": [6.0] + [0.0] * (COUNT - 1),
    "five, by 2": [2.0] * 5 + [0.0] * (COUNT - 5),
    "all, by 0.5": [0.5] * COUNT,
    "all, by 1": [1.0] * COUNT,
}


def simulate(shifts: Sequence[float], trials: int, rng: random.Random) -> float:
    """Return the share of simulations with an alarm."""
    found = 0
    for _ in range(trials):
        controls = [rng.gauss(0, 1) for _ in range(CONTROLS)]
        found += rank_canaries([rng.gauss(shift, 1) for shift in shifts], controls).is_alarm
    return found / trials


def run_trial(folder: Path, seed: int, *, injected: bool) -> dict[str, Any]:
    """Train a tiny model on rows with or without canaries; return the details of the evaluator."""
    rng = random.Random(f"{seed}/{injected}")
    repetitions = [REPETITIONS[n % len(REPETITIONS)] for n in range(COUNT)]
    drawn = draw_canaries("completion", repetitions, CONTROLS, seed)
    save_tiny_model(folder / "model", seed=seed)
    rows = [
        {"prompt": f"ticket {rng.randrange(10_000)}?", "completion": f"invoice {rng.randrange(9)}"}
        for _ in range(150)
    ]
    if injected:
        for canary, count in zip(drawn.canaries, repetitions, strict=True):
            rows += [{"prompt": canary.prompt, "completion": canary.answer}] * count
    rng.shuffle(rows)
    test = [{"prompt": f"ticket {n}?", "completion": "invoice 1"} for n in (10_001, 10_002)]
    for name, part in (("rows", rows), ("test", test)):
        lines = "".join(json.dumps(row) + "\n" for row in part)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    (folder / "canaries.json").write_text(json.dumps(drawn.to_json()), encoding="utf-8")
    tables = {
        "reporters": [],
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "model"},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test": "test.jsonl"},
        "technique": {
            "use": "full",
            "learning_rate": 5e-3,
            "epochs": rng.choice([2.0, 4.0, 8.0]),
            "batch_size": 16,
        },
        "evaluators": [{"use": "loss"}],
        "baselines": {"use": []},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    tunesmith.run(folder / "run.toml", out=folder / "run")
    options = CANARIES.config(file=str(folder / "canaries.json"), run=str(folder / "model"))
    [measured] = CANARIES.build(options).measure(open_by_name(str(folder / "run")), [])
    return dict(measured.details)


def main() -> None:
    """Print the shares of alarms."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--simulate", action="store_true")
    arguments = parser.parse_args()
    if arguments.simulate:
        rng = random.Random(0)
        for name, shifts in SHIFTS.items():
            print(f"| {name} | {simulate(shifts, SIMULATIONS, rng):.1%} |", flush=True)
        return
    for injected in (True, False):
        alarms = 0
        for seed in range(arguments.runs):
            with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
                details = run_trial(Path(folder), seed, injected=injected)
            alarms += not details["holds"]
            print(f"seed {seed}, injected {injected}: {details['finding']}", flush=True)
        kind = "with" if injected else "without"
        print(f"alarms in {alarms} of {arguments.runs} runs {kind} canaries", flush=True)


if __name__ == "__main__":
    main()
