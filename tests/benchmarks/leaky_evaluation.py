"""Measure by how much a leaky split overstates accuracy, on an example.

``python -m tests.benchmarks.leaky_evaluation FOLDER`` reads banking77 (PolyAI, CC BY 4.0) in FOLDER
and prints the table of ``docs/explanation/leaks.md``. 800 random training rows are taken as
published, and once more as a log has them: each prompt is there one to five times, with another
greeting, case or punctuation. A fifth of the rows is held out, by chance and by ``tunesmith data
split``. Two classifiers are trained on the rest; the truth is their accuracy on 3,000 other rows of
the same source, as published.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from tests.benchmarks.data_checks import CHOSEN_ON

from tunesmith.contracts import SplitRequest
from tunesmith.records import Completion
from tunesmith_data.splits import split_records
from tunesmith_plugins.checks.leaks.find_leaks import find_duplicates

SEEDS = 5
ROWS = 800
OTHERS = 3_000
TEST = 0.2
MODELS = {
    "1-nearest neighbor": lambda: KNeighborsClassifier(1, metric="cosine"),
    "logistic regression": lambda: LogisticRegression(C=10, max_iter=300, tol=1e-3),
}
Rows = Sequence[Completion]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.leaky_evaluation")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    file, reader = CHOSEN_ON["banking77, training part"]
    source = [record for record in reader(folder / file) if isinstance(record, Completion)]
    print(
        "| data | split | test rows with a duplicate in training | classifier | held out | truth |"
    )
    print("|---|---|---|---|---|---|")
    for data in ("as published", "with repeated prompts"):
        for split in (by_chance, by_clusters):
            runs = [measure(source, data, split, seed) for seed in range(SEEDS)]
            duplicates = statistics.mean(duplicates for duplicates, _ in runs)
            for name in MODELS:
                test, truth = (
                    statistics.mean(scores[name][part] for _, scores in runs) for part in (0, 1)
                )
                print(
                    f"| {data} | {split.__name__.replace('_', ' ')} "
                    f"| {100 * duplicates:.0f} % | {name} "
                    f"| {100 * test:.1f} % | {100 * truth:.1f} % |",
                    flush=True,
                )


def measure(source: Rows, data: str, split, seed: int):  # type: ignore[no-untyped-def]
    """Return the share of test rows with a duplicate, and the accuracies of each classifier."""
    rng = random.Random(seed)
    mixed = rng.sample(source, ROWS + OTHERS)
    rows, others = mixed[:ROWS], mixed[ROWS:]
    if data != "as published":
        rows = [repeated for row in rows for repeated in repeat(row, rng)]
    train, test = split(rows, seed)
    duplicates = len({leak.row for leak in find_duplicates(train, test)}) / len(test)
    scores = {
        name: (accuracy(build(), train, test), accuracy(build(), train, others))
        for name, build in MODELS.items()
    }
    return duplicates, scores


def repeat(row: Completion, rng: random.Random) -> list[Completion]:
    """Return a row one to five times, as people ask the same in nearly the same words."""
    prompt = row.prompt
    forms = [
        prompt.lower().rstrip("?.!"),
        f"Hi, {prompt}",
        f"{prompt} Thanks",
        prompt.replace("?", "??").replace("'", ""),
    ]
    count = min(1 + int(rng.expovariate(0.7)), 5)
    texts = [prompt, *rng.sample(forms, len(forms))][:count]
    return [replace(row, prompt=text) for text in texts]


def by_chance(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    mixed = random.Random(seed).sample(rows, len(rows))
    size = round(TEST * len(rows))
    return mixed[size:], mixed[:size]


def by_clusters(rows: Rows, seed: int) -> tuple[Rows, Rows]:
    request = SplitRequest(
        records=rows, seed=seed, test=True, test_size=TEST, validation=False, needs_validation=False
    )
    split = split_records(iter(rows), request)
    return [rows[row] for row in split.train], [rows[row] for row in split.test]


def accuracy(model, train: Rows, test: Rows) -> float:  # type: ignore[no-untyped-def]
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=8_000
    )
    vectors = vectorizer.fit_transform([row.prompt for row in train])
    model.fit(vectors, [row.completion for row in train])
    found = model.predict(vectorizer.transform([row.prompt for row in test]))
    return statistics.mean(label == row.completion for label, row in zip(found, test, strict=True))


if __name__ == "__main__":
    main()
