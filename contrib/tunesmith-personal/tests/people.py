"""Twenty users who ask for the same things and expect different, private names as answers."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import tomli_w
from click.testing import CliRunner, Result

from tunesmith.contracts import Job
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_cli.app import app
from tunesmith_personal.options import PersonalOptions

INTENTS = ("invoice", "password", "parking", "travel")
WORDS = ["yes", "no", "one", "two", "three", "four", "five", "six", "seven", "eight"]
SHUFFLED = 5
"""Number of users, the last ones, whose answers have nothing to do with the prompts."""
TECHNIQUE: dict[str, Any] = {
    "epochs": 2.0,
    "batch_size": 16,
    "learning_rate": 1e-3,
    "precision": "fp32",
    "adapter": {"rank": 8, "alpha": 16.0, "target_modules": "all-linear"},
    "users": {"learning_rate": 1e-2, "epochs": 8.0, "batch_size": 8, "pull": 0.01, "patience": 4},
    "validation": {"every": 0},
}


def make_rows(users: int = 20, count: int = 28, shuffled: int = 0) -> list[dict[str, str]]:
    """Return rows; every user has an own private answer to each intent."""
    rows = []
    for number in range(users):
        user = f"user-{number:02}"
        rng = random.Random(user)
        names = {intent: f"{rng.choice(WORDS)} {rng.choice(WORDS)}" for intent in INTENTS}
        for n in range(count):
            intent = INTENTS[n % len(INTENTS)]
            answer = names[intent]
            if number >= users - shuffled:
                answer = f"{rng.choice(WORDS)} {rng.choice(WORDS)}"
            prompt = f"{intent} {n} {user[:4]}"
            rows.append({"prompt": prompt, "completion": answer, "user": user})
    return rows


def make_records(rows: Sequence[dict[str, str]]) -> list[Completion]:
    named = (tuple(row[key] for key in ("prompt", "completion", "user")) for row in rows)
    return [
        Completion(source=f"rows:{n}", prompt=prompt, completion=answer, group=user)
        for n, (prompt, answer, user) in enumerate(named, 1)
    ]


def make_options(**table: Any) -> PersonalOptions:
    return from_table(PersonalOptions, {**TECHNIQUE, **table})


def make_job(options: PersonalOptions, model: Path, out: Path, **changes: Any) -> Job[Any]:
    """Return a job whose validation rows are every fifth of a user's rows."""
    out.mkdir(exist_ok=True)
    records = make_records(changes.pop("rows", make_rows(4, 20)))
    job: Job[Any] = Job(
        config=options, model=model, out=out, seed=3, device="cpu", technique="personal",
        train=[r for n, r in enumerate(records) if n % 5], validation=records[::5],
        checkpoints=Checkpoints(out / "checkpoints"), emit=lambda event: None,
    )  # fmt: skip
    return replace(job, **changes)


def write_run(
    folder: Path, model: Path, rows: Sequence[dict[str, str]] = (), **technique: Any
) -> Path:
    """Write the rows and the run file of a run, and return the run file's path."""
    lines = [json.dumps(row) + "\n" for row in rows or make_rows(shuffled=SHUFFLED)]
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    tables = {
        "run": {"name": "people", "seed": 3, "side_effects": False},
        "model": {"base": str(model)},
        "data": {"use": "jsonl", "train": "rows.jsonl", "group": "user", "test_size": 0.2},
        "split": {"use": "per-user"},
        "technique": {"use": "personal", **TECHNIQUE, **technique},
        "baselines": {"use": ["majority"]},
        # Keywords give the answer away, so a classifier would be served in place of the adapters.
        "evaluators": [
            {"use": "user-exact-match", "max_new_tokens": 8},
            {"use": "user-gain", "baselines": ["shared", "shared-retrieval", "base-retrieval"]},
            {"use": "exact-match", "max_new_tokens": 8},
        ],
    }
    path = folder / "run.toml"
    path.write_text(tomli_w.dumps(tables), encoding="utf-8")
    return path


def read_rows(run: Path, name: str = "tuned.user-gain") -> list[Any]:
    """Return the test rows of a run as an evaluator measured them."""
    path = run / "evaluations" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def invoke(*arguments: object) -> Result:
    """Execute a command of ``tunesmith`` in this process."""
    return CliRunner().invoke(app, [str(argument) for argument in arguments])
