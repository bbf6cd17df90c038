"""Inject rows of another kind in production rows, and count the intervals that cover their share.

``python -m tests.benchmarks.coverage FOLDER [--draws N] [--train N] [--production N]`` reads the
sets that lie in FOLDER, as ``tests.benchmarks.data_checks`` does. Training and production rows are
drawn from banking77 without overlap; 12 % of the production rows are from elsewhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from tests.benchmarks.data_checks import BITEXT, commands, instructions, table

from tunesmith_data.coverage import measure_coverage
from tunesmith_data.splits import PromptTexts

SHARE = 0.12
MISSING_LABELS = 9

Draw = Callable[[np.random.Generator, int, int], tuple[list[str], list[str]]]
"""Return training and production rows, with the injected ones."""


def read_sources(folder: Path) -> dict[str, Draw]:
    banking = [
        row
        for name in ("train.csv", "test.csv")
        for row in table("text", "category")(folder / "banking77" / name)
    ]
    texts = [*PromptTexts(banking)]
    labels = np.array([row.completion for row in banking])
    others = {
        "shell commands in English (NL2Bash)": commands(folder / "nl2bash/all.nl"),
        "instructions of all kinds (Self-Instruct)": instructions(
            folder / "self_instruct/user_oriented_instructions.jsonl"
        ),
        "another help desk (Bitext)": table("instruction", "intent")(folder / BITEXT),
    }
    sources = {name: plant_texts(texts, [*PromptTexts([*rows])]) for name, rows in others.items()}
    sources["nine intents that are missing in training"] = plant_labels(texts, labels)
    sources["nothing (the truth is 0 %)"] = plant_texts(texts, [])
    return sources


def plant_texts(texts: Sequence[str], others: Sequence[str]) -> Draw:
    def draw(rng: np.random.Generator, train: int, production: int) -> tuple[list[str], list[str]]:
        injected = round(SHARE * production) if others else 0
        rows = rng.permutation(len(texts))[: train + production - injected]
        chosen = rng.permutation(len(others))[:injected]
        asked = [*(texts[row] for row in rows[train:]), *(others[row] for row in chosen)]
        return [texts[row] for row in rows[:train]], asked

    return draw


def plant_labels(texts: Sequence[str], labels: np.ndarray) -> Draw:
    def draw(rng: np.random.Generator, train: int, production: int) -> tuple[list[str], list[str]]:
        missing = np.isin(labels, rng.permutation(np.unique(labels))[:MISSING_LABELS])
        injected = round(SHARE * production)
        known, new = (rng.permutation(np.flatnonzero(mask)) for mask in (~missing, missing))
        asked = [*known[train : train + production - injected], *new[:injected]]
        return [texts[row] for row in known[:train]], [texts[row] for row in asked]

    return draw


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.coverage")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--train", type=int, default=1_000)
    parser.add_argument("--production", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0, help="of the first draw")
    options = parser.parse_args()
    print("| injected | estimate | mean interval | covers the truth | too high | too low |")
    print("|---|---|---|---|---|---|")
    for name, draw in read_sources(options.folder).items():
        truth = 0.0 if name.startswith("nothing") else SHARE
        found = []
        for seed in range(options.seed, options.seed + options.draws):
            rng = np.random.default_rng(seed)
            share = measure_coverage(*draw(rng, options.train, options.production)).share
            found.append((share.estimate, share.low, share.high))
        estimate, low, high = np.mean(found, axis=0)
        above = sum(one[1] > truth for one in found)
        below = sum(one[2] < truth for one in found)
        print(
            f"| {name} | {100 * estimate:.1f} % | [{100 * low:.0f}, {100 * high:.0f}] "
            f"| {len(found) - above - below} of {len(found)} | {above} | {below} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
