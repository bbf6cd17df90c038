"""Measure the commands that read many runs: ``tunesmith runs`` and ``tunesmith compare``.

``python -m tests.benchmarks.run_lists`` trains a tiny model once, makes 200 run folders of that run
(``--runs``) with other learning rates, losses and answers, each with a log of 400 steps, 100
test rows that three models answered, measured by the default evaluators, and a checkpoint, and
prints the CPU time of each command, the least of three rounds. The limit is 1.5 seconds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith.events import JSON
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUNS, STEPS, ROWS, ROUNDS = 200, 400, 100, 3
LIMIT_SECONDS = 1.5
MODELS = ("tuned", "zero-shot", "random-shots")
METRICS = ("exact-match", "loss")


def train_once(folder: Path) -> Path:
    """Return the folder of a real run."""
    save_tiny_model(folder / "model")
    rows = [{"prompt": f"ticket {n}?", "completion": f"invoice {n % 9}"} for n in range(60)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    tables = {
        "reporters": [],
        "run": {"device": "cpu"},
        "model": {"base": "model"},
        "data": {"train": "rows.jsonl"},
        "technique": {"use": "lora", "max_steps": 4, "checkpoints": {"every": 2}},
        "baselines": {"use": []},
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    tunesmith.run(folder / "run.toml", out=folder / "run")
    return folder / "run"


def copy_run(run: Path, folder: Path, number: int) -> None:
    """Make another run of a real one, with a longer log and other results."""
    shutil.copytree(run, folder)
    rng = random.Random(number)
    right = rng.uniform(0.4, 0.95)
    lines = (folder / "events.jsonl").read_text(encoding="utf-8").splitlines()
    events = [change(json.loads(line), number, right, rng) for line in lines]
    text = "".join(json.dumps(e) + "\n" for event in events for e in multiply(event, rng))
    (folder / "events.jsonl").write_text(text, encoding="utf-8")
    for model in MODELS:
        rows = [answer(n, right, rng) for n in range(ROWS)]
        for metric in METRICS:
            lines = (json.dumps({**row, metric: measure(row, metric, rng)}) + "\n" for row in rows)
            path = folder / "evaluations" / f"{model}.{metric}.jsonl"
            path.write_text("".join(lines), encoding="utf-8")


def change(event: JSON, number: int, right: float, rng: random.Random) -> JSON:
    """Return an event of another run."""
    if event["event"] == "run-started":
        event["plan"]["technique"]["learning_rate"] = 1e-5 * (1 + number)
        event |= {"name": f"run {number}", "started": f"2026-11-{1 + number % 28:02}T08:00:00Z"}
    if event["event"] == "measured":
        value = right if event["metric"] == METRICS[0] else 1 - right
        event |= {"value": value, "low": value - 0.05, "high": value + 0.05, "n": ROWS}
    return event


def multiply(event: JSON, rng: random.Random) -> Iterator[JSON]:
    """Yield an event; the first step as all steps, a measurement for each model."""
    if event["event"] == "step-finished":
        if event["step"] == 1:
            for step in range(1, STEPS + 1):
                loss = 3 / (1 + step / 40) + rng.gauss(0, 0.05)
                yield {**event, "step": step, "steps": STEPS, "loss": loss}
    elif event["event"] == "measured":
        for model in MODELS:
            records = f"evaluations/{model}.{event['evaluator']}.jsonl"
            yield {**event, "model": model, "records": records}
    else:
        yield event


def answer(number: int, right: float, rng: random.Random) -> JSON:
    """Return the line of a test row."""
    prompt = [["user", f"Where is order {number}? I sent a message last week. " * 4]]
    is_right = rng.random() < right
    return {
        "row": number,
        "source": f"rows.jsonl:{number}",
        "group": None,
        "prompt": prompt,
        "expected": "invoice",
        "output": "invoice" if is_right else "delivery",
    }


def measure(row: JSON, metric: str, rng: random.Random) -> JSON:
    """Return the value and the weight of a row by a metric: whether it is right, or its loss."""
    is_right = row["output"] == row["expected"]
    if metric == METRICS[0]:
        return {"value": float(is_right), "weight": 1.0}
    return {"value": rng.expovariate(4.0 if is_right else 1.0), "weight": 2.0 + row["row"] % 3}


def measure_seconds(*arguments: Any) -> float:
    """Return the least CPU time of a command in some rounds."""
    rounds = []
    for _ in range(ROUNDS):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        command = [sys.executable, "-m", "tunesmith", *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        rounds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(rounds)


def main() -> None:
    """Print the CPU time of each command."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
        run = train_once(Path(name))
        root = Path(name) / "runs"
        root.mkdir()
        folders = [root / f"run-{number:03}" for number in range(options.runs)]
        for number, folder in enumerate(folders):
            copy_run(run, folder, number)
        print(f"| {options.runs} runs of {STEPS} steps | CPU seconds |\n|---|---|")
        for title, arguments in (
            ("`tunesmith runs`", ["runs", root]),
            ("`tunesmith compare` of 2", ["compare", *folders[:2]]),
            ("`tunesmith compare` of 20", ["compare", *folders[:20]]),
            (f"`tunesmith compare` of {len(folders)}", ["compare", *folders]),
        ):
            seconds = measure_seconds(*arguments)
            late = "" if seconds < LIMIT_SECONDS else f", above {LIMIT_SECONDS}"
            print(f"| {title} | {seconds:.2f}{late} |", flush=True)


if __name__ == "__main__":
    main()
