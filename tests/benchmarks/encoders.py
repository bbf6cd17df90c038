"""Score classifiers over an encoder's vectors beside TF-IDF, on few rows of banking77.

``python -m tests.benchmarks.encoders FOLDER`` reads ``train.csv`` and ``test.csv`` of banking77
(PolyAI, CC BY 4.0) and prints a table. Intents, training rows and 400 test rows are drawn with
five seeds. ``embedding`` and ``linear`` learn from all training rows; their variants are chosen out
of fold, and for ``linear`` the default is used. The plain classifiers of scikit-learn get the same
vectors. ``--seconds`` instead measures how long ``embedding`` takes for 500 rows that are not in
the cache, with 100 test rows. ``--runs OUT`` instead writes a run file for each draw. Each run
compares a tuned SmolLM2-135M-Instruct with these classifiers.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import mean

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from tests.benchmarks import banking77
from tests.benchmarks.baselines import no_model, read_csv, right

from tunesmith.contracts import BaselineTask
from tunesmith.encoders import Encoder
from tunesmith.offers import BaselineOffer
from tunesmith.records import Completion
from tunesmith_plugins.baselines.embedding import EMBEDDING
from tunesmith_plugins.baselines.linear import LINEAR
from tunesmith_plugins.encoders.sentence_encoder import SENTENCE_ENCODER

SETTINGS = ((10, 20), (10, 5), (77, 10))
"""Numbers of intents, and of training rows per intent."""
SEEDS, TEST_ROWS = 5, 400
Rows = list[Completion]


def draw(train: Rows, test: Rows, intents: int, per_intent: int, seed: int) -> tuple[Rows, Rows]:
    """Draw intents, training rows and test rows."""
    rng = random.Random(seed)
    chosen = sorted(rng.sample(sorted({row.completion for row in train}), intents))
    by_intent = [[row for row in train if row.completion == name] for name in chosen]
    drawn = [row for members in by_intent for row in rng.sample(members, per_intent)]
    asked = [row for row in test if row.completion in chosen]
    return drawn, rng.sample(asked, min(TEST_ROWS, len(asked)))


RUN = f"""{banking77.START}learning_rate = 1e-3
batch_size = 8
epochs = 4

[baselines]
use = ["majority", "nearest", "linear", "embedding"]

[[evaluators]]
use = "exact-match"
"""


def write_run(folder: Path, train: Rows, test: Rows, seed: int) -> None:
    """Write a run file with the rows of a draw."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in (("train", train), ("test", test)):
        shuffled = random.Random(seed).sample(rows, len(rows))
        columns = [{"text": row.prompt, "category": row.completion} for row in shuffled]
        banking77.write_rows(folder / f"{name}.csv", columns)
    (folder / "run.toml").write_text(RUN.replace("TECHNIQUE", "lora"), encoding="utf-8")


def score_baseline(offer: BaselineOffer, train: Rows, test: Rows, encoder: Encoder) -> float:  # type: ignore[type-arg]
    """Return the share of right test answers of a baseline's first variant."""
    task = BaselineTask(train=train, base=no_model, seed=0, encoder=lambda: encoder)
    return right(next(iter(offer.build(offer.config()).variants(task))), test)


def score_plain(train: Rows, test: Rows, encoder: Encoder) -> Iterator[tuple[str, float]]:
    """Yield the share of right answers of scikit-learn's classifiers over the same vectors."""
    known, asked = (np.asarray(encoder.encode([r.prompt for r in rows])) for rows in (train, test))
    labels, expected = ([row.completion for row in rows] for rows in (train, test))
    for name, model in {
        "LogisticRegression(C=10)": LogisticRegression(C=10, max_iter=300),
        "KNeighborsClassifier(1)": KNeighborsClassifier(1),
        "NearestCentroid": NearestCentroid(),
    }.items():
        yield name, float(model.fit(known, labels).score(asked, expected))


def measure_seconds(train: Rows, test: Rows) -> None:
    """Print the seconds that ``embedding`` takes with an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["TUNESMITH_CACHE"] = folder
        for name in ("empty cache", "full cache"):
            started, cpu = time.perf_counter(), time.process_time()
            encoder = SENTENCE_ENCODER.build(SENTENCE_ENCODER.config())
            share = score_baseline(EMBEDDING, train[:500], test[:100], encoder)
            seconds = time.perf_counter() - started
            print(f"{name}: {seconds:.1f} s, {time.process_time() - cpu:.1f} s of CPU; {share:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", action="store_true")
    parser.add_argument("--runs", type=Path, metavar="OUT")
    options = parser.parse_args()
    train, test = (
        read_csv(options.folder / f"{part}.csv", "text", "category") for part in ("train", "test")
    )
    if options.seconds:
        measure_seconds(*draw(train, test, 10, 50, 0))
        return
    if options.runs:
        for intents, per_intent in SETTINGS:
            for seed in range(SEEDS):
                folder = options.runs / f"{intents}x{per_intent}-{seed}"
                write_run(folder, *draw(train, test, intents, per_intent, seed), seed)
        return
    encoder = SENTENCE_ENCODER.build(SENTENCE_ENCODER.config())
    for intents, per_intent in SETTINGS:
        scores: dict[str, list[float]] = {}
        for seed in range(SEEDS):
            drawn, asked = draw(train, test, intents, per_intent, seed)
            for offer in (EMBEDDING, LINEAR):
                found = score_baseline(offer, drawn, asked, encoder)
                scores.setdefault(offer.name, []).append(found)
            for name, share in score_plain(drawn, asked, encoder):
                scores.setdefault(name, []).append(share)
        shown = ", ".join(f"{name} {mean(shares):.3f}" for name, shares in scores.items())
        print(f"{intents} intents x {per_intent}: {shown}", flush=True)


if __name__ == "__main__":
    main()
