"""Measure the policies of retraining on real requests: ``python benchmarks/real_upkeep.py FOLDER``.

FOLDER has ``train.csv`` and ``test.csv`` of banking77 (PolyAI, CC BY 4.0). A classifier (TF-IDF and
logistic regression) is in service for 24 months. It starts with 30 intents; in some months, five
new ones appear. Half of the texts are requests, whose errors cost; no classifier learns them. The
other half are audited answers, 40 each month and as many as ``LABEL N MORE`` asks for: a new
classifier learns them and the rows of the old one. An error costs 1, a training 200, a label 0.5.
Streams with different seeds have different orders of intents and texts.
"""

from __future__ import annotations

import argparse
import csv
import random
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline

from tunesmith.statistics import mean_interval
from tunesmith_evidence.statistics import paired_difference
from tunesmith_monitor.decision import TEST_SHARE, Decision, Inputs, decide

MONTHS, FIRST_INTENTS, NEW_INTENTS, FIRST_ROWS, AUDITS, SAMPLE = 24, 30, 5, 20, 40, 150
TRAINING, LABEL = 200.0, 0.5
MOST_LABELS = 400
Row = tuple[str, str]


def fit(rows: list[Row]) -> Pipeline:
    """Train a classifier."""
    texts, labels = zip(*rows, strict=True)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10))
    return model.fit(texts, labels)


def find_errors(model: Pipeline, rows: list[Row]) -> list[float]:
    """Return 1 for each row that the classifier gets wrong, and 0 for the others."""
    texts, labels = zip(*rows, strict=True)
    return [
        float(found != label) for found, label in zip(model.predict(texts), labels, strict=True)
    ]


@dataclass
class Service:
    """A classifier in service, with what is known of its errors."""

    rows: list[Row]
    held_out: list[Row]
    new: list[Row] = field(default_factory=list)
    audits: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.replace()

    def replace(self) -> None:
        """Train on all rows that have a label."""
        self.held_out = [*self.held_out, *self.new[::TEST_SHARE]]
        learned = [row for number, row in enumerate(self.new) if number % TEST_SHARE]
        self.rows, self.new, self.audits = [*self.rows, *learned], [], []
        self.model = fit(self.rows)
        self.error_before = float(np.mean(find_errors(self.model, self.held_out)))

    def audit(self, rows: list[Row]) -> None:
        """Label answers of this month."""
        self.audits = [*self.audits, *find_errors(self.model, rows)][-200:]
        self.new += rows

    def decide(self, volume: float, months: float) -> Decision:
        """Ask `decide` as the command ``tunesmith retrain`` does."""
        now = mean_interval(self.audits)
        return decide(
            Inputs(
                error_before=self.error_before, error_now=now.value, error_low=now.low,
                error_high=now.high, audited=len(self.audits), rows=len(self.new), volume=volume,
                months=months, value=1, training_cost=TRAINING, label_cost=LABEL,
                forgetting=0.002, first_rows=50, exponent=0.5,
            )
        )  # fmt: skip


def run_stream(
    policy: str, pool: dict[str, list[Row]], seed: int, volume: int, drift: float
) -> float:
    """Return the cost of 24 months. Every policy meets the same requests and changes."""
    rng = random.Random(seed)
    asked, labeled = {}, {}
    for label, rows in pool.items():
        mixed = rng.sample(rows, len(rows))
        asked[label], labeled[label] = mixed[::2], mixed[1::2]
    names = rng.sample(sorted(pool), len(pool))
    active, waiting = names[:FIRST_INTENTS], names[FIRST_INTENTS:]
    start = [row for name in active for row in labeled[name][:FIRST_ROWS]]
    service = Service(start, [row for name in active for row in labeled[name][FIRST_ROWS:][:5]])
    cost = 0.0
    for month in range(MONTHS):
        if rng.random() < drift and waiting:
            active, waiting = active + waiting[:NEW_INTENTS], waiting[NEW_INTENTS:]
        requests = [rng.choice(asked[rng.choice(active)]) for _ in range(SAMPLE)]
        spare = [rng.choice(labeled[rng.choice(active)]) for _ in range(MOST_LABELS)]
        cost += float(np.mean(find_errors(service.model, requests))) * volume
        if policy == "never":
            continue
        service.audit(spare[:AUDITS])
        cost += LABEL * AUDITS
        go = policy == "monthly"
        if policy == "decide":
            months = min(6, MONTHS - 1 - month)
            decision = service.decide(volume, months)
            if decision.word == "LABEL" and decision.labels <= MOST_LABELS - AUDITS:
                service.audit(spare[AUDITS : AUDITS + decision.labels])
                cost += LABEL * decision.labels
                decision = service.decide(volume, months)
            go = decision.word == "RETRAIN"
        if go:
            cost += TRAINING
            service.replace()
    return cost


def main() -> None:
    """Print the mean costs, with intervals over streams."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--streams", type=int, default=20)
    given = parser.parse_args()
    pool: dict[str, list[Row]] = defaultdict(list)
    for name in ("train.csv", "test.csv"):
        with (given.folder / name).open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                pool[row["category"]].append((row["text"], row["category"]))
    for volume, drift in ((300, 0.05), (1_000, 0.2), (5_000, 0.1), (5_000, 0.4)):
        costs = {
            policy: [run_stream(policy, pool, seed, volume, drift) for seed in range(given.streams)]
            for policy in ("decide", "monthly", "never")
        }
        cells = "  ".join(f"{policy} {np.mean(found):,.0f}" for policy, found in costs.items())
        against = []
        for other in ("monthly", "never"):
            gain = paired_difference(costs["decide"], costs[other])
            against.append(
                f"{other} - decide {gain.value:+,.0f} [{gain.low:+,.0f}, {gain.high:+,.0f}]"
            )
        print(
            f"{volume:,} a month, change in {drift:.0%}: {cells}  {'  '.join(against)}", flush=True
        )


if __name__ == "__main__":
    main()
