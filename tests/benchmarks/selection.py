"""Compare rows that ``tunesmith data select`` chooses with as many random ones.

``python -m tests.benchmarks.selection FOLDER`` reads banking77 (PolyAI, CC BY 4.0) and the intents
of Bitext's smaller customer support set (CDLA-Sharing 1.0) in FOLDER. On the chosen and on the
random rows, it trains a classifier (TF-IDF and logistic regression) and prints its accuracy on
other rows: the table of ``docs/reference/measurements.md``. Bitext has no test part: each seed
holds 1,000 rows out; the intents are imbalanced as published.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from tests.benchmarks.data_checks import CHOSEN_ON, REPORTED_ON

from tunesmith.records import Completion
from tunesmith_plugins.commands.data.selection import select_rows

SEEDS = 5
SIZES = (150, 300, 1_000, 2_000)
TEST = 1_000
Rows = Sequence[Completion]


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.selection")
    parser.add_argument("folder", type=Path, metavar="FOLDER")
    folder = parser.parse_args().folder
    print("| set | rows | selected | random | selected is better in |\n|---|---|---|---|---|")
    for name in ("banking77", "Bitext"):
        for size in SIZES:
            pairs = [
                (accuracy(select(train, size, seed), test), accuracy(sample(train, size), test))
                for seed, (train, test) in enumerate(parts(folder, name))
            ]
            cells = " | ".join(
                f"{100 * statistics.mean(values):.1f} ± {100 * statistics.stdev(values):.1f} %"
                for values in zip(*pairs, strict=True)
            )
            better = sum(one > other for one, other in pairs)
            print(f"| {name} | {size:,} | {cells} | {better} of {SEEDS} |", flush=True)


def parts(folder: Path, name: str) -> Iterator[tuple[Rows, Rows]]:
    """Yield training and test rows for each seed."""
    if name == "banking77":
        train = read(folder, *CHOSEN_ON["banking77, training part"])
        test = read(folder, *REPORTED_ON["banking77, test part"])
        for seed in range(SEEDS):
            random.seed(seed)
            yield train, test
        return
    rows = read(folder, *CHOSEN_ON["Bitext, intents"])
    for seed in range(SEEDS):
        random.seed(seed)
        mixed = random.sample(rows, len(rows))
        yield mixed[TEST:], mixed[:TEST]


def read(folder: Path, file: str, reader) -> Rows:  # type: ignore[no-untyped-def]
    return [record for record in reader(folder / file) if isinstance(record, Completion)]


def select(train: Rows, size: int, seed: int) -> Rows:
    chosen = select_rows([row.prompt for row in train], size, seed=seed)
    return [train[row] for row in chosen.rows]


def sample(train: Rows, size: int) -> Rows:
    return random.sample(train, size)


def accuracy(train: Rows, test: Rows) -> float:
    vectorizer = TfidfVectorizer(
        analyzer="char_wb", ngram_range=(2, 4), sublinear_tf=True, max_features=8_000
    )
    vectors = vectorizer.fit_transform([row.prompt for row in train])
    model = LogisticRegression(C=10, max_iter=300, tol=1e-3)
    model.fit(vectors, [row.completion for row in train])
    found = model.predict(vectorizer.transform([row.prompt for row in test]))
    return statistics.mean(label == row.completion for label, row in zip(found, test, strict=True))


if __name__ == "__main__":
    main()
