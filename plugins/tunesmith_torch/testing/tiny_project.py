"""Write a run file and rows for a tiny model, for complete runs that take seconds."""

from __future__ import annotations

import json
from pathlib import Path

__all__ = ["write_project"]

RUN_FILE = """
[model]
base = "{model}"

[data]
use = "jsonl"
train = "rows.jsonl"

[technique]
use = "lora"
epochs = {epochs}
batch_size = {batch_size}
precision = "fp32"
checkpoints = {{ every = {every} }}

[baselines]
use = ["majority"]

[[evaluators]]
use = "exact-match"
"""


def write_project(
    folder: Path,
    model: Path,
    *,
    epochs: int = 12,
    batch_size: int = 4,
    every: int = 10,
    tables: str = "",
) -> Path:
    """Write a run file and its rows to a folder; return the run file.

    ``model`` is a model folder, such as the fixture ``tiny_model``. ``every`` is the number of
    steps between checkpoints. ``tables`` adds further tables to the run file, as TOML.
    """
    answers = [{"prompt": f"question {n}", "completion": f"answer {n % 7}"} for n in range(80)]
    text = "".join(json.dumps(row) + "\n" for row in answers)
    (folder / "rows.jsonl").write_text(text, encoding="utf-8")
    run_file = folder / "run.toml"
    content = RUN_FILE.format(model=model, epochs=epochs, batch_size=batch_size, every=every)
    run_file.write_text(content + tables, encoding="utf-8")
    return run_file
