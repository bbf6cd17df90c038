"""Score the baselines that need no model beside plain scikit-learn.

``python -m tests.benchmarks.baselines FOLDER`` reads banking77 (PolyAI, CC BY 4.0) and the smaller
customer support set of Bitext (CDLA-Sharing 1.0) from the folders of these names in FOLDER, and the
help desk example. It prints a table. ``--all`` adds banking77 with all of its 10,003 rows.

A fifth of the training rows are validation rows, at random. Each baseline learns from the others,
its variant is chosen out of fold or on the validation rows, and the test rows are scored once. The
plain classifiers learn from the same rows, with the settings that scikit-learn has by default.
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

from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.offers import BaselineOffer
from tunesmith.records import Completion, last_exchange
from tunesmith_plugins.baselines.fields import FIELDS
from tunesmith_plugins.baselines.linear import LINEAR
from tunesmith_plugins.baselines.majority import MAJORITY
from tunesmith_plugins.baselines.nearest import NEAREST

HELP_DESK = Path(__file__).parents[2] / "plugins/tunesmith_plugins/commands/starter/helpdesk"
BASELINES = (MAJORITY, NEAREST, LINEAR, FIELDS)
VALIDATION_SHARE = 0.2
DRAWS = 6
"""Random choices of ten intents."""
PER_INTENT = 20


@dataclass(frozen=True)
class Task:
    """Training and test rows."""

    name: str
    train: Sequence[Completion]
    test: Sequence[Completion]


@dataclass(frozen=True)
class Score:
    """The share of right test answers, the chosen variant, and the CPU seconds of all."""

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
        test = [row for row in test if row.completion in chosen]
        yield Task(f"banking77, ten intents x 20, draw {draw + 1}", few(chosen, rng), test)
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
    train, test = (read_json_lines(HELP_DESK / f"{part}.jsonl") for part in ("train", "test"))
    yield Task("help desk", train, test)
    yield from support_tasks(folder / "bitext_customer_support")
    yield from banking_tasks(folder / "banking77", with_all=with_all)


# --------------------------------------------------------------------------- baselines


def no_model() -> TextModel:
    raise AssertionError("these baselines need no model")


def right(variant: BaselineVariant, part: Sequence[Completion]) -> float:
    """Return the share of rows that a variant answers as they are."""
    generations = variant.model.generate([last_exchange(row)[0] for row in part], 512)
    return float(
        np.mean(
            [g.text == row.completion.strip() for g, row in zip(generations, part, strict=True)]
        )
    )


def split(train: Sequence[Completion]) -> tuple[list[Completion], list[Completion]]:
    """Return the rows to learn from, and the validation rows."""
    shuffled = random.Random(1).sample(train, len(train))
    count = int(VALIDATION_SHARE * len(train))
    return shuffled[count:], shuffled[:count]


def score_baseline(offer: BaselineOffer[Any], task: Task) -> Score | None:
    """Choose the variant on the validation rows, and score it once on the test rows."""
    learned, validation = split(task.train)
    started = time.process_time()
    baseline = offer.build(offer.config())
    variants = list(baseline.variants(BaselineTask(train=learned, base=no_model, seed=1)))
    if not variants or not offer.suits(task.train):
        return None
    best = max(variants, key=lambda variant: right(variant, validation))
    share = right(best, task.test)
    return Score(share, best.name, time.process_time() - started)


# --------------------------------------------------------------------------- plain


def score_plain(task: Task) -> dict[str, Score]:
    """Score scikit-learn's classifiers over its TF-IDF of words, as they are by default."""
    learned, _ = split(task.train)
    vectorizer = TfidfVectorizer()
    train = vectorizer.fit_transform([row.prompt for row in learned])
    test = vectorizer.transform([row.prompt for row in task.test])
    labels = np.array([row.completion for row in learned])
    expected = np.array([row.completion for row in task.test])
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
    scores = [score_baseline(offer, task) for offer in BASELINES]
    plain = score_plain(task)
    cells = [task.name, str(len(task.train)), str(len(task.test))]
    for score in scores:
        variant = f" ({score.variant})" if score and score.variant else ""
        cells.append(f"{score.share:.3f}{variant}" if score else "")
    cells += [f"{plain[name].share:.3f}" for name in PLAIN]
    cells.append(f"{sum(score.seconds for score in scores if score):.1f}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="folder with the datasets")
    parser.add_argument("--all", action="store_true", help="also banking77 with all rows")
    options = parser.parse_args()
    plain = [f"plain {name}" for name in PLAIN]
    head = ["task", "rows", "test", *(o.name for o in BASELINES), *plain, "CPU s of the baselines"]
    print(f"| {' | '.join(head)} |\n|{'---|' * len(head)}")
    for task in list_tasks(options.folder, with_all=options.all):
        print(line(task), flush=True)


if __name__ == "__main__":
    main()
