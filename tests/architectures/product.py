"""Runs of this project on a tiny model, called as users call it."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tomli_w
from click.testing import CliRunner
from tests.architectures.reference import LEARNING_RATE, MAX_NEW_TOKENS

import tunesmith
from tunesmith.errors import TunesmithError
from tunesmith_cli.app import app

STEPS = 3
SEED = 42


@dataclass(frozen=True)
class RunFile:
    """The settings of a run that the matrix varies."""

    technique: str
    data: str
    packing: bool | None = None
    """None: the default."""
    baseline: bool = False

    def __str__(self) -> str:
        layout = {None: "default", True: "packed", False: "padded"}[self.packing]
        return f"{self.technique}, {self.data}, {layout}"

    def write(self, folder: Path, model: Path, data: Mapping[str, Any]) -> Path:
        """Write the run file; return its path."""
        technique: dict[str, Any] = {
            "use": self.technique,
            "learning_rate": LEARNING_RATE,
            "batch_size": 64,
            "epochs": STEPS,
            "precision": "fp32",
            "schedule": {"type": "constant", "warmup_ratio": 0.0},
        }
        if self.packing is not None:
            technique |= {"packing": self.packing, "micro_batch_tokens": 320}
        plain = {"describe": False, "constrain": False}
        baselines = {"use": ["zero-shot"], "zero-shot": plain} if self.baseline else {"use": []}
        table = {
            "run": {"device": "cpu", "seed": SEED},
            "model": {"base": str(model)},
            "data": dict(data),
            "technique": technique,
            "baselines": baselines,
            "evaluators": [
                {"use": "loss"},
                {"use": "exact-match", "max_new_tokens": MAX_NEW_TOKENS},
            ],
            "reporters": [{"use": "jsonlines"}],
        }
        path = folder / "run.toml"
        path.write_text(tomli_w.dumps(table))
        return path


@dataclass
class Outcome:
    """The results that a run reported."""

    error: str = ""
    """The error that ended it, with the hint; empty: none."""
    trace: str = ""
    """The last lines of its traceback."""
    is_expected: bool = False
    """True if the error is one of this project's own, with a message for users."""
    steps: list[tuple[float, float]] = field(default_factory=list)
    """Loss and gradient norm of each step."""
    findings: list[str] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)
    """Loss of the evaluator, by model: base and tuned."""
    answers: dict[str, list[str]] = field(default_factory=dict)
    artifact: Path | None = None
    tokens_per_second: float = 0.0


def check(run_file: Path) -> tuple[str, str]:
    """Check a run file; return the text of its errors (empty: none), and of a crash."""
    result = CliRunner().invoke(app, ["check", str(run_file)])
    if result.exit_code == 0:
        return "", ""
    text = result.output[result.output.find("error: ") :].strip()
    if isinstance(result.exception, SystemExit) and text.startswith("error: model.base"):
        return text.splitlines()[0].removeprefix("error: "), ""
    return "", text or last_lines(result.exception)


def run(run_file: Path, out: Path) -> Outcome:
    """Execute a run file; return what its events say."""
    outcome = Outcome()
    try:
        tunesmith.run(run_file, out=out)
    except TunesmithError as error:
        outcome.error = str(error)
        outcome.is_expected = True
        outcome.trace = last_lines(error)
    except Exception as error:
        outcome.error = f"{type(error).__name__}: {error}"
        outcome.trace = last_lines(error)
    read_events(outcome, out)
    return outcome


def read_events(outcome: Outcome, out: Path) -> None:
    """Add what the log of a run holds to the outcome."""
    path = out / "events.jsonl"
    if not path.exists():
        return
    seconds, tokens = 0.0, 0
    for event in map(json.loads, path.read_text().splitlines()):
        match event["event"]:
            case "training-started":
                outcome.details = event["details"]
            case "step-finished":
                outcome.steps.append((event["loss"], event["gradient_norm"]))
                if event["step"] > 1:
                    seconds, tokens = seconds + event["seconds"], tokens + event["tokens"]
            case "finding":
                outcome.findings.append(event["message"])
            case "training-finished":
                outcome.artifact = out / event["artifact"]
            case "measured" if event["model"] != "training-rows":
                lines = (out / event["records"]).read_text().splitlines()
                if event["evaluator"] == "loss":
                    outcome.losses[event["model"]] = event["value"]
                else:
                    outcome.answers[event["model"]] = [json.loads(r)["output"] for r in lines]
    outcome.tokens_per_second = tokens / seconds if seconds else 0.0


def last_lines(error: BaseException | None, lines: int = 14) -> str:
    """Return the last lines of an error's traceback."""
    while error is not None and error.__cause__ is not None:
        error = error.__cause__
    return "\n".join("".join(traceback.format_exception(error)).strip().splitlines()[-lines:])
