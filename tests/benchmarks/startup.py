"""Measure the time from the command to the first step of a run, beside importing the libraries.

Each is a new process, in turn. CPU time is measured too, because a shared machine may be busy.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

RUN = """[run]
side_effects = false
[model]
base = {model}
[data]
use = "jsonl"
train = "rows.jsonl"
[baselines]
use = []
[technique]
use = "lora"
max_steps = 1
[plugins]
files = ["first_step.py"]
[[evaluators]]
use = "loss"
[[reporters]]
use = "first-step"
"""
REPORTER = '''"""Write the times of the first step."""

import json
import time

from tunesmith.events import StepFinished
from tunesmith.hookspecs import hookimpl
from tunesmith.offers import ReporterOffer
from tunesmith.options import Options


class FirstStep:
    def __init__(self, folder):
        self.file = folder.path / "first_step.json"

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return None

    def report(self, event):
        if isinstance(event, StepFinished) and not self.file.exists():
            self.file.write_text(json.dumps([time.process_time(), time.time()]))


@hookimpl
def tunesmith_reporters():
    def build(options, folder):
        return FirstStep(folder)

    summary = "writes the times of the first step"
    return [ReporterOffer(name="first-step", summary=summary, config=Options, build=build)]
'''
IMPORTS = "import torch, transformers, peft"
PROGRAMS = {
    "python -c 'import torch, transformers, peft'": IMPORTS,
    "the same without bitsandbytes": f"import sys; sys.modules['bitsandbytes'] = None; {IMPORTS}",
}
FIRST_STEP = "tunesmith run, up to the end of the first step"
_TIMES = "import json, time; print(json.dumps([time.process_time(), time.time()]))"


def measure(model: Path, folder: Path, rounds: int) -> dict[str, Any]:
    """Return CPU and wall-clock seconds of each, round by round; the first round warms up."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"prompt": f"w{n} w{n + 1}", "completion": f"w{n + 2}"} for n in range(1, 41)]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "rows.jsonl").write_text(lines, encoding="utf-8")
    (folder / "first_step.py").write_text(REPORTER, encoding="utf-8")
    run_file = RUN.format(model=json.dumps(str(model.resolve())))
    (folder / "run.toml").write_text(run_file, encoding="utf-8")
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in (*PROGRAMS, FIRST_STEP)}
    for number in range(rounds + 1):
        for name, measured in runs.items():
            started = time.time()
            if name == FIRST_STEP:
                cpu, ended = _run_to_first_step(folder, f"run-{number}")
            else:
                cpu, ended = _run([sys.executable, "-c", f"{PROGRAMS[name]}\n{_TIMES}"], folder)
            if number:
                measured.append((cpu, ended - started))
    return {"runs": runs}


def _run_to_first_step(folder: Path, out: str) -> tuple[float, float]:
    command = [sys.executable, "-m", "tunesmith", "run", "run.toml", "--out", out]
    process = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    times = folder / out / "first_step.json"
    if not times.is_file():
        raise RuntimeError(f"the run took no step: {process.stderr[-2000:]}")
    cpu, ended = json.loads(times.read_text(encoding="utf-8"))
    return cpu, ended


def _run(command: list[str], folder: Path) -> tuple[float, float]:
    process = subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    cpu, ended = json.loads(process.stdout.splitlines()[-1])
    return cpu, ended
