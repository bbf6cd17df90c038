"""Tune a teacher, and train a student of its first layers with and without it.

``python -m benchmarks.students FOLDER --base MODEL --train TRAIN.csv --test TEST.csv`` (from this
distribution's folder) reads tables with the columns ``text`` and ``category``, and keeps the first
categories. It trains five runs in FOLDER: the teacher, and the student on the rows alone, with
forward KL, with reverse KL, and with reverse KL half on answers that it samples. At the end, and
with ``--show``, it prints the share of correct answers and each student's difference from the one
that was trained on the rows alone.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import tomli_w
from transformers import AutoModelForCausalLM, AutoTokenizer

from tunesmith import api
from tunesmith_torch.compare.open_by_name import fetch_base

LAYERS, CATEGORIES = 6, 8
ROWS = {"train": 20, "test": 15}
"""Rows of each category."""
COMMON = {"batch_size": 8, "validation": {"every": 0}, "precision": "fp32"}
STUDENT = {**COMMON, "use": "distill", "teacher": "runs/teacher", "learning_rate": 1e-3}
RUNS: dict[str, dict[str, Any]] = {
    "teacher": {**COMMON, "use": "lora", "learning_rate": 1e-3, "epochs": 2},
    "alone": {**STUDENT, "weight": 0.0, "epochs": 2},
    "forward": {**STUDENT, "weight": 0.5, "epochs": 2},
    "reverse": {**STUDENT, "weight": 0.5, "epochs": 2, "direction": "reverse"},
    "on-policy": {
        **STUDENT,
        "weight": 0.5,
        "epochs": 2,
        "direction": "reverse",
        "on_policy": 0.5,
        "on_policy_tokens": 12,
    },
}


def write_rows(source: Path, target: Path, count: int) -> None:
    """Write the first rows of each of the first categories, in alphabetical order."""
    with source.open(encoding="utf-8", newline="") as file:
        table = list(csv.DictReader(file))
    names = sorted({row["category"] for row in table})[:CATEGORIES]
    seen, lines = Counter[str](), []
    for row in table:
        name = row["category"]
        seen[name] += 1
        if name in names and seen[name] <= count:
            prompt = f"Which category? {row['text']}"
            lines.append(json.dumps({"prompt": prompt, "completion": name}) + "\n")
    target.write_text("".join(lines), encoding="utf-8")


def write_student(base: Path, folder: Path) -> None:
    """Write a model of the first layers."""
    AutoModelForCausalLM.from_pretrained(base, num_hidden_layers=LAYERS).save_pretrained(folder)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)


def train(name: str, base: str) -> None:
    """Train one of the runs, unless it is finished."""
    if Path("runs", name, "report.json").exists():
        return
    tables = {
        "run": {"seed": 1, "side_effects": False},
        "model": {"base": base if name == "teacher" else "student"},
        "data": {"use": "jsonl", "train": "train.jsonl", "test": "test.jsonl"},
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match"}],
        "technique": RUNS[name],
    }
    Path(f"{name}.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    run_command("run", f"{name}.toml", "--out", f"runs/{name}", "--quiet")


def run_command(*arguments: str) -> None:
    """Run a command of tunesmith in its own process."""
    subprocess.run([sys.executable, "-m", "tunesmith", *arguments], check=True)


def show(name: str) -> None:
    """Print a run's score, and the last step's divergence."""
    text = Path("runs", name, "events.jsonl").read_text(encoding="utf-8")
    events = [json.loads(line) for line in text.splitlines()]
    steps = [event for event in events if event["event"] == "step-finished"]
    metrics = steps[-1].get("metrics", {})
    first = steps[0].get("metrics", {}).get("kl")
    kl = f", KL {first:.3f} to {metrics['kl']:.3f} nats per token" if first is not None else ""
    report = api.load_run(Path("runs", name))[0]
    print(f"{name}: {len(steps)} steps{kl} ({report.path})")


def main() -> None:
    """Read the arguments, train what is missing, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    for name in ("base", "train", "test"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--show", action="store_true", help="train nothing")
    given = parser.parse_args()
    sources = {part: Path(getattr(given, part)).absolute() for part in ROWS}
    given.folder.mkdir(parents=True, exist_ok=True)
    os.chdir(given.folder)
    if not given.show:
        for part, count in ROWS.items():
            write_rows(sources[part], Path(f"{part}.jsonl"), count)
        if not Path("student").exists():
            write_student(fetch_base(given.base, "--base"), Path("student"))
        for name in RUNS:
            train(name, given.base)
    for name in RUNS:
        show(name)
    for name in ("alone", "forward", "reverse", "on-policy"):
        other = "teacher" if name == "alone" else "alone"
        run_command("compare", f"runs/{other}", f"runs/{name}")


if __name__ == "__main__":
    main()
