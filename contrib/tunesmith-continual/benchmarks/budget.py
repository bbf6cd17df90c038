"""Does the divergence on a new task predict what is forgotten, and does the budget stop in time?

``python -m benchmarks.budget FOLDER`` (from this distribution's folder) trains a tiny model on a
task, then on other tasks at several learning rates. The slope from divergence to forgetting is
fitted to the runs of one new task. The runs of three other tasks are repeated with a budget. Each
is one line: predicted and measured loss without the budget, then the measured loss with it.

A stop is right if the measured loss is at most :data:`TOLERANCE` above the budget, and training was
not cut short although the whole training forgets less than the budget, by more than that.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
from pathlib import Path
from typing import Any

import tomli_w

from benchmarks.forgetting import start, tunesmith
from tunesmith_continual.budget import Point, fit_slope, predict_loss
from tunesmith_torch.testing.tiny_model import save_tiny_model

TOPICS = ("card", "refund", "delivery", "invoice", "ticket")
FIRST = ("What is the {} {} about?", ("one", "two", "three", "four", "five"))
FITTED = ("Send the {} {} to whom?", ("red", "blue", "green", "white", "black"))
OTHERS = (
    ("Which floor has the {} {}?", ("two", "four", "one", "five", "three")),
    ("The {} {} is late.", ("north", "south", "east", "west", "home")),
    ("Close {} {}, please", ("yes", "no", "later", "never", "soon")),
)
"""The prompt of each task, and its answer for each topic."""
RATES = (3e-4, 1e-3, 2e-3, 4e-3)
BUDGET, TOLERANCE = 0.2, 0.1
TRAIN, VALIDATION, TEST = 160, 20, 80


def write_task(folder: Path, name: str, task: tuple[str, tuple[str, ...]]) -> None:
    """Write the rows of a task."""
    rng, (prompt, answers) = random.Random(name), task
    for part, count in (("train", TRAIN), ("validation", VALIDATION), ("test", TEST)):
        lines = []
        for _ in range(count):
            topic, number = rng.randrange(len(TOPICS)), rng.randrange(100_000)
            row = {"prompt": prompt.format(TOPICS[topic], number), "completion": answers[topic]}
            lines.append(json.dumps(row) + "\n")
        (folder / f"{name}-{part}.jsonl").write_text("".join(lines), encoding="utf-8")


def write_run_file(folder: Path, name: str, rate: float, epochs: int, retention: Any) -> Path:
    """Write the run file of a task; return its path."""
    parts = ("train", "validation", "test")
    tables: dict[str, Any] = {
        "run": {"name": name, "seed": 1, "side_effects": False, "device": "cpu"},
        "model": {"base": "model"},
        "data": {"use": "jsonl", **{part: f"{name}-{part}.jsonl" for part in parts}},
        "split": {"near_duplicates": False},
        "technique": {
            "use": "full",
            "learning_rate": rate,
            "epochs": epochs,
            "batch_size": 8,
            "precision": "fp32",
            "validation": {"every": 0},
        },
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match", "max_new_tokens": 8}],
        "reporters": [],
    }
    tables |= {"retention": retention} if retention else {}
    path = folder / f"{name}.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def continue_run(folder: Path, name: str, rate: float, retention: Any) -> dict[str, float]:
    """Train the next task; return its divergence, and the loss on the first task."""
    kind = "within" if "budget" in retention else "whole"
    out = folder / f"{name}-{rate:g}-{kind}-{retention['kl_on']}"
    chain = out / "continual" / "chain.json"
    if not chain.is_file():
        run_file = write_run_file(folder, name, rate, 4, retention)
        tunesmith(["continue", str(folder / "first"), str(run_file), "--out", str(out), "--quiet"])
    found = json.loads(chain.read_text(encoding="utf-8"))
    lines = (out / "events.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if line["event"] == "step-finished"]
    return {
        "kl": found["kl"],
        "loss": -found["tasks"][0]["change"]["value"],
        "score": found["matrix"][0][0]["value"],
        "steps": len(steps),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.budget")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--on", choices=("new", "earlier"), default="earlier", help="`kl_on`")
    options = parser.parse_args()
    folder = options.folder
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_model(folder / "model")
    tasks = {"first": FIRST, "fitted": FITTED, **{f"other-{n}": t for n, t in enumerate(OTHERS)}}
    for name, task in tasks.items():
        write_task(folder, name, task)
    start(folder, write_run_file(folder, "first", 6e-3, 24, {}), folder / "first")
    measured = {"kl_every": 5, "kl_on": options.on}
    points = [continue_run(folder, "fitted", rate, measured) for rate in RATES]
    slope = fit_slope([Point(p["kl"], p["loss"], p["score"]) for p in points])
    assert slope is not None, "the runs of the first new task forgot nothing"
    print(f"slope {slope:.3f}, from losses of {[round(p['loss'], 3) for p in points]}")
    print("| task | rate | divergence | predicted | measured | with budget | steps | right |")
    print(f"|{'---|' * 8}")
    errors, right = [], 0
    for name in list(tasks)[2:]:
        for rate in RATES:
            whole = continue_run(folder, name, rate, measured)
            budget = {**measured, "budget": BUDGET, "budget_slope": slope}
            budget["budget_score"] = whole["score"]
            within = continue_run(folder, name, rate, budget)
            predicted = predict_loss(whole["kl"], slope, whole["score"])
            errors.append(abs(predicted - whole["loss"]))
            is_cut = within["steps"] < whole["steps"]
            is_right = within["loss"] <= BUDGET + TOLERANCE and not (
                is_cut and whole["loss"] < BUDGET - TOLERANCE
            )
            right += is_right
            cells = [name, f"{rate:g}", f"{whole['kl']:.3f}", f"{predicted:.3f}"]
            cells += [f"{whole['loss']:.3f}", f"{within['loss']:.3f}"]
            cells += [f"{within['steps']} of {whole['steps']}", "yes" if is_right else "no"]
            print(f"| {' | '.join(cells)} |", flush=True)
    print(f"mean error {statistics.fmean(errors):.3f}; {right} of {len(errors)} stops are right")


if __name__ == "__main__":
    main()
