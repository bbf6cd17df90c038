"""Measure the CPU time of users' adapters: together, one after the other, and as separate runs.

Run from this folder::

    python -m benchmarks.adapters MODEL_FOLDER --users 100

``together`` and ``one after the other`` train on one base model in memory. ``separate runs`` are
``tunesmith run`` with ``lora`` on one user's rows, without baselines; the time of a few is
extrapolated. All arms take the same number of optimizer steps per user.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import tomli_w

from tunesmith.contracts import Job
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_personal.options import PersonalOptions
from tunesmith_personal.technique import SHARED_ADAPTER, Personal, UserTrainer, group_by_user

ROWS, EPOCHS = 12, 4
WORDS = ["invoice", "password", "parking", "travel", "laptop", "badge", "printer", "phone"]


def make_records(users: int) -> list[Completion]:
    """Return rows of users; a user's answers differ from those of all others."""
    return [
        Completion(
            source=f"rows:{user}-{n}",
            prompt=f"Whom do I ask about my {WORDS[n % 8]}, case {n}?",
            completion=f"Desk {user}-{n % 8}",
            group=f"user-{user:04}",
        )
        for user in range(users)
        for n in range(ROWS)
    ]


def measure_users(model: Path, folder: Path, users: int, *, together: bool) -> float:
    """Return the CPU seconds to train all users on a base model that is already in memory."""
    options = make_options(together)
    trainer = UserTrainer.open(folder, model, options, "cpu", 0)
    people = group_by_user(make_records(users))
    started = time.process_time()
    trainer.train(people, {}, lambda event: None)
    return time.process_time() - started


def make_options(together: bool) -> PersonalOptions:
    users: dict[str, Any] = {"epochs": float(EPOCHS), "batch_size": ROWS, "together": together}
    return PersonalOptions.model_validate(
        {"epochs": 1.0, "max_steps": 2, "learning_rate": 1e-3, "precision": "fp32", "users": users}
    )


def train_shared(model: Path, folder: Path) -> None:
    """Train a shared adapter, from which all arms start."""
    folder.mkdir()
    records = [
        Completion(source="x", prompt=r.prompt, completion="Desk 1") for r in make_records(1)
    ]
    job: Job[Any] = Job(
        config=make_options(True), model=model, train=records, validation=(), out=folder, seed=0,
        device="cpu", checkpoints=Checkpoints(folder / "checkpoints"), emit=lambda event: None,
        technique="personal",
    )  # fmt: skip
    Personal(make_options(True)).train(job)


def measure_separate_run(model: Path, folder: Path) -> float:
    """Return the CPU seconds of ``tunesmith run`` on the rows of one user."""
    folder.mkdir()
    rows = [{"prompt": r.prompt, "completion": r.completion} for r in make_records(1)]
    for name in ("rows.jsonl", "test.jsonl"):
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / name).write_text("".join(lines), encoding="utf-8")
    tables = {
        "run": {"side_effects": False},
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test": "test.jsonl"},
        "technique": {
            "use": "lora",
            "adapter": {"rank": 8, "target_modules": ["q_proj", "v_proj"]},
            "learning_rate": 2e-3,
            "precision": "fp32",
            "epochs": float(EPOCHS),
            "batch_size": ROWS,
        },
        "baselines": {"use": []},
        "evaluators": [{"use": "loss"}],
    }
    (folder / "run.toml").write_text(tomli_w.dumps(tables), encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "run", str(folder / "run.toml")]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([*command, "--out", str(folder / "run"), "-q"], check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    """Print the CPU seconds of each arm, their ratios, and the peak memory, as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--separate", type=int, default=3, help="separate runs to measure")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        train_shared(asked.model, folder / "start")
        seconds = {}
        for together in (True, False):
            run = folder / f"together-{together}"
            (run / "shared").mkdir(parents=True)
            (run / SHARED_ADAPTER).symlink_to(folder / "start" / SHARED_ADAPTER)
            seconds[together] = measure_users(asked.model, run, asked.users, together=together)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        runs = [
            measure_separate_run(asked.model, folder / f"separate-{n}")
            for n in range(asked.separate)
        ]
    separate = asked.users * sum(runs) / len(runs)
    result = {
        "users": asked.users,
        "together_seconds": seconds[True],
        "one_after_the_other_seconds": seconds[False],
        "separate_runs_seconds": separate,
        "faster_than_one_after_the_other": seconds[False] / seconds[True],
        "faster_than_separate_runs": separate / seconds[True],
        "peak_memory_bytes": memory,
    }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
