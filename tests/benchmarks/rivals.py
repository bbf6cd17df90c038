"""Score the rivals that need no model beside plain scikit-learn.

``python -m tests.benchmarks.rivals FOLDER`` reads banking77 (PolyAI, CC BY 4.0) and the smaller
customer support set of Bitext (CDLA-Sharing 1.0) from the folders of these names in FOLDER, and the
help desk example. It prints a table. ``--all`` adds banking77 with all of its 10,003 rows.

A fifth of the training rows are dev rows, at random. Each rival learns from the others, its variant
is chosen out of fold or on the dev rows, and the held-out rows are scored once. The plain
classifiers learn from the same rows, with the settings that scikit-learn has by default.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.preprocessing import normalize

from tunesmith.contracts import RivalTask, RivalVariant, TextModel
from tunesmith.offers import RivalOffer
from tunesmith.records import Completion, last_exchange
from tunesmith_plugins.rivals.fields.offer import FIELDS
from tunesmith_plugins.rivals.linear.offer import LINEAR
from tunesmith_plugins.rivals.majority.offer import MAJORITY
from tunesmith_plugins.rivals.nearest.offer import NEAREST

HELP_DESK = Path(__file__).parents[2] / "plugins/tunesmith_plugins/commands/starter/helpdesk"
RIVALS = (MAJORITY, NEAREST, LINEAR, FIELDS)
DEV_SHARE = 0.2
DRAWS = 6
"""Random choices of ten intents."""
PER_INTENT = 20


@dataclass(frozen=True)
class Task:
    """Training and held-out rows."""

    name: str
    train: Sequence[Completion]
    heldout: Sequence[Completion]


@dataclass(frozen=True)
class Score:
    """The share of right held-out answers, the chosen variant, and the CPU seconds of all."""

    share: float
    variant: str = ""
    seconds: float = 0.0


# --------------------------------------------------------------------------- data


def rows(name: str, pairs: Iterable[tuple[str, str]]) -> list[Completion]:
    """Return pairs of prompt and answer as rows."""
    return [
        Completion(source=f"{name}:{line}", prompt=prompt, completion=answer)
        for line, (prompt, answer) in enumerate(pairs, 1)
    ]


def read_csv(path: Path, prompt: str, answer: str) -> list[Completion]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        return rows(path.name, ((row[prompt], row[answer]) for row in csv.DictReader(file)))


def read_json_lines(path: Path) -> list[Completion]:
    read = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return rows(path.name, ((row["prompt"], row["completion"]) for row in read))


def banking_tasks(folder: Path, *, with_all: bool) -> Iterator[Task]:
    """Yield random choices of ten intents, then all intents."""
    train, test = (
        read_csv(folder / f"{part}.csv", "text", "category") for part in ("train", "test")
    )
    intents = sorted({row.completion for row in train})

    def few(chosen: Sequence[str], rng: random.Random) -> list[Completion]:
        by_intent = {name: [r for r in train if r.completion == name] for name in sorted(chosen)}
        return [row for members in by_intent.values() for row in rng.sample(members, PER_INTENT)]

    for draw in range(DRAWS):
        rng = random.Random(draw)
        chosen = rng.sample(intents, 10)
        heldout = [row for row in test if row.completion in chosen]
        yield Task(f"banking77, ten intents x 20, draw {draw + 1}", few(chosen, rng), heldout)
    yield Task("banking77, 77 intents x 20", few(intents, random.Random(0)), test)
    if with_all:
        yield Task("banking77, all rows", train, test)


def support_tasks(folder: Path) -> Iterator[Task]:
    """Yield messages whose answers are JSON objects: two classes, and what the message names."""
    [path] = folder.glob("*.csv")
    with path.open(newline="", encoding="utf-8-sig") as file:
        keys = ("category", "intent", "entity_type", "entity_value")
        read = [
            (row["instruction"], json.dumps({key: row[key] or None for key in keys}))
            for row in csv.DictReader(file)
        ]
    chosen = random.Random(0).sample(rows(path.name, read), 1000)
    yield Task("customer support, JSON of four keys", chosen[:500], chosen[500:])


def list_tasks(folder: Path, *, with_all: bool) -> Iterator[Task]:
    train, heldout = (read_json_lines(HELP_DESK / f"{part}.jsonl") for part in ("train", "heldout"))
    yield Task("help desk", train, heldout)
    yield from support_tasks(folder / "bitext_customer_support")
    yield from banking_tasks(folder / "banking77", with_all=with_all)


# --------------------------------------------------------------------------- rivals


def no_model() -> TextModel:
    raise AssertionError("these rivals need no model")


def right(variant: RivalVariant, part: Sequence[Completion]) -> float:
    """Return the share of rows that a variant answers as they are."""
    generations = variant.model.generate([last_exchange(row)[0] for row in part], 512)
    return float(
        np.mean(
            [g.text == row.completion.strip() for g, row in zip(generations, part, strict=True)]
        )
    )


def split(train: Sequence[Completion]) -> tuple[list[Completion], list[Completion]]:
    """Return the rows to learn from, and the dev rows."""
    shuffled = random.Random(1).sample(train, len(train))
    count = int(DEV_SHARE * len(train))
    return shuffled[count:], shuffled[:count]


def score_rival(offer: RivalOffer[Any], task: Task) -> Score | None:
    """Choose the variant on the dev rows, and score it once on the held-out rows."""
    learned, dev = split(task.train)
    started = time.process_time()
    rival = offer.build(offer.config())
    variants = list(rival.variants(RivalTask(train=learned, base=no_model, seed=1)))
    if not variants or not offer.suits(task.train):
        return None
    best = max(variants, key=lambda variant: right(variant, dev))
    share = right(best, task.heldout)
    return Score(share, best.name, time.process_time() - started)


# --------------------------------------------------------------------------- plain


def score_plain(task: Task) -> dict[str, Score]:
    """Score scikit-learn's classifiers over its TF-IDF of words, as they are by default."""
    learned, _ = split(task.train)
    vectorizer = TfidfVectorizer()
    train = vectorizer.fit_transform([row.prompt for row in learned])
    test = vectorizer.transform([row.prompt for row in task.heldout])
    labels = np.array([row.completion for row in learned])
    expected = np.array([row.completion for row in task.heldout])
    names = np.unique(labels)
    centroids = normalize(np.vstack([np.asarray(train[labels == n].mean(axis=0)) for n in names]))
    nearest = KNeighborsClassifier(5, metric="cosine").fit(train, labels)
    linear = LogisticRegression(max_iter=1000).fit(train, labels)
    predicted = {
        "5 nearest": nearest.predict(test),
        "centroid": names[(test @ centroids.T).argmax(axis=1)],
        "logistic regression": linear.predict(test),
    }
    return {name: Score(float(np.mean(p == expected))) for name, p in predicted.items()}


PLAIN = ("5 nearest", "centroid", "logistic regression")


def line(task: Task) -> str:
    """Return the line of the table for a task."""
    scores = [score_rival(offer, task) for offer in RIVALS]
    plain = score_plain(task)
    cells = [task.name, str(len(task.train)), str(len(task.heldout))]
    for score in scores:
        variant = f" ({score.variant})" if score and score.variant else ""
        cells.append(f"{score.share:.3f}{variant}" if score else "")
    cells += [f"{plain[name].share:.3f}" for name in PLAIN]
    cells.append(f"{sum(score.seconds for score in scores if score):.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the data sets")
    parser.add_argument("--all", action="store_true", help="also banking77 with all rows")
    options = parser.parse_args()
    plain = [f"plain {name}" for name in PLAIN]
    head = ["task", "rows", "held-out", *(o.name for o in RIVALS), *plain, "CPU s of the rivals"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for task in list_tasks(options.folder, with_all=options.all):
        print(line(task), flush=True)


if __name__ == "__main__":
    main()
