"""scikit-learn's digits, from files to the verdict: the tuned model reads the images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from sklearn.datasets import load_digits

from tunesmith_torch.testing.tiny_model import save_tiny_model

CLASSES = 5
ROWS = {"train": 80, "test": 30}
RUN = """
[run]
seed = 1
side_effects = false
[model]
base = "{model}"
[data]
use = "images"
train = "train.jsonl"
test = "test.jsonl"
[split]
validation_size = 20
[technique]
use = "vision"
precision = "fp32"
epochs = 15
batch_size = 16
learning_rate = 3e-3
projector_rate = 1.0
"""


def write_digits(folder: Path) -> None:
    """Write digits as pictures, with the digits as answers."""
    digits = load_digits(n_class=CLASSES)
    start = 0
    for part, count in ROWS.items():
        lines = []
        for n in range(start, start + count):
            pixels = (digits.images[n] / 16 * 255).astype(np.uint8)
            PIL.Image.fromarray(pixels).convert("RGB").resize((64, 64)).save(folder / f"{n}.png")
            row = {"question": "<image>Which digit?", "images": [f"{n}.png"]}
            lines.append(json.dumps({**row, "answer": str(digits.target[n])}))
        (folder / f"{part}.jsonl").write_text("\n".join(lines) + "\n")
        start += count


def run(folder: Path, model: Path) -> dict[str, Any]:
    (folder / "run.toml").write_text(RUN.format(model=model))
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", "runs/digits"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report: dict[str, Any] = json.loads((folder / "runs/digits/report.json").read_text())
    return report


def read_events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "runs/digits/events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event.get("event") == kind]


def value(report: dict[str, Any], model: str, metric: str) -> float:
    (found,) = [
        e["value"] for e in report["evaluations"] if (e["model"], e["metric"]) == (model, metric)
    ]
    return float(found)


def test_a_tiny_language_model_learns_to_read_digits(tmp_path: Path) -> None:
    write_digits(tmp_path)
    # Random weights must be large enough for adapters to change the answers.
    changes = {"initializer_range": 0.3, "tie_word_embeddings": False}
    model = save_tiny_model(tmp_path / "model", changes=changes)
    report = run(tmp_path, model)
    assert value(report, "tuned", "exact-match") >= 0.7
    assert value(report, "tuned", "image-gain") > 1.0
    assert value(report, "image-probe", "exact-match") >= 0.9
    assert value(report, "image-majority", "exact-match") <= 0.4
    assert report["verdict"]["word"] != "DOES NOT LOOK"
    (forecast,) = read_events(tmp_path, "forecast")
    (finished,) = read_events(tmp_path, "training-finished")
    low, high = forecast["memory"]["low"], forecast["memory"]["high"]
    assert low <= finished["peak_memory_bytes"] <= high
