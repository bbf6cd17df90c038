"""Run folders for the tests, written from the sample run of tunesmith's test kit."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tunesmith.events import (
    DataLoaded,
    Event,
    FindingReported,
    Forecast,
    GateChecked,
    Measured,
    Monitored,
    PartEnded,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingStarted,
)  # fmt: skip
from tunesmith.testing import sample_event
from tunesmith_evidence.report.first_batch import FirstBatch, TokenRow

COMPARISON = {
    "value": 0.4, "tuned": 0.8, "difference": 0.4, "low": 0.2, "high": 0.6, "n": 10,
    "p_value": 0.001, "p_value_holm": 0.001, "outcome": "better",
}  # fmt: skip
VERDICT = {
    "word": "FINE-TUNE", "outcome": "better", "evaluator": "exact-match", "metric": "exact-match",
    "baseline": "fields", "sentence": "The tuned model is better than every baseline.",
    **COMPARISON, "comparisons": {"fields": COMPARISON},
}  # fmt: skip
BATCH = FirstBatch(
    layout="packed", tokens=5, padding=0, micro_batches=1,
    rows=[TokenRow(title="row 1", tokens=5, trained=2, marks="CccTt",
                   pieces=["<s>", "Which", " team?\n", "it", "\x1b[31m[red]"])],
)  # fmt: skip


def write_lines(path: Path, events: Iterable[Event | dict[str, Any]], mode: str = "w") -> None:
    """Write events to a log as a run does."""
    with path.open(mode, encoding="utf-8") as file:
        for event in events:
            line = event if isinstance(event, dict) else event.to_json()
            file.write(json.dumps({"time": 1.0, **line}) + "\n")


def make_plan(rate: float = 1e-4, **tables: Any) -> dict[str, Any]:
    """Return a plan with a learning rate."""
    technique = {"use": "lora", "learning_rate": rate}
    return {"model": {"base": "/models/smol"}, "technique": technique, **tables}


def list_events(
    name: str = "tickets", *, steps: int = 40, done: int | None = None, ends: bool = True,
    plan: dict[str, Any] | None = None, started: str = "2026-01-01T10:00:00+00:00",
    value: float = 0.8,
) -> Iterable[Event]:  # fmt: skip
    """Yield the events of a run that trains ``done`` of its steps, and ends or not."""
    noise = random.Random(0)
    yield sample_event(RunStarted, name, started=started, plan=plan or make_plan())
    yield sample_event(PhaseStarted, phase="data", total=None)
    yield sample_event(PhaseEnded, phase="data", seconds=0.1)
    yield sample_event(
        DataLoaded, "tickets.jsonl, prompt and completion", skipped={"empty answer": 2},
        lengths={"train": {"prompt": {"64": 30, "128": 10}, "answer": {"8": 40}}},
    )  # fmt: skip
    yield sample_event(
        FindingReported, source="tickets.jsonl:7", message="7 rows have the same prompt.", count=7,
        hint="remove them", examples=["tickets.jsonl:7 My password"],
    )  # fmt: skip
    forecast = {
        "memory": {"low": 2**30, "expected": 2**31, "high": 3 * 2**30},
        "seconds": [15.0, 30.0],
    }
    yield sample_event(Forecast, "lora", **forecast)
    for model, score in (("zero-shot", 0.4), ("fields", 0.6)):
        yield measure(model, score)
    yield sample_event(TrainingStarted, "lora", steps=steps)
    yield BATCH
    for step in range(1, (steps if done is None else done) + 1):
        loss = 2.0 / step**0.5 + noise.gauss(0, 0.05)
        yield sample_event(StepFinished, step=step, steps=steps, loss=loss, metrics={})
        if step % 10 == 0:
            metrics = {"validation_loss": loss + 0.1, "train_loss": loss}
            yield sample_event(Monitored, step=step, metrics=metrics)
    if not ends:
        yield sample_event(PhaseStarted, phase="training", total=steps)
        return
    yield sample_event(GateChecked, gate="kl", message="KL is 1.0, below 5.0", passed=True)
    yield measure("tuned", value)
    yield sample_event(PartEnded, part="training", seconds=20.0)
    yield sample_event(RunFinished, verdict=VERDICT)


def measure(model: str, value: float, **fields: Any) -> Measured:
    """Return a measurement on ten rows."""
    return sample_event(
        Measured, "exact-match", model=model, value=value, low=value - 0.15, high=value + 0.1, n=10,
        records=f"evaluations/{model}.exact-match.jsonl", lowest=0.0, highest=1.0, **fields,
    )  # fmt: skip


def write_run(root: Path, folder: str, events: Iterable[Event], right: int = 8) -> Path:
    """Write a run folder whose tuned model answers the first ``right`` of ten rows."""
    path = root / folder
    (path / "evaluations").mkdir(parents=True)
    (path / "lock").touch()
    (path / "run.toml").touch()
    write_lines(path / "events.jsonl", events)
    for model, good in (
        ("zero-shot", {0, 1, 2, 9}),
        ("fields", set(range(6))),
        ("tuned", set(range(right))),
    ):
        rows = (
            {"row": n, "source": f"test.jsonl:{n}", "prompt": [["user", f"Question {n}?"]],
             "expected": "it", "exact-match": {"value": float(n in good), "weight": 1.0},
             "output": "it" if n in good else f"hr ({model})"}
            for n in range(10)
        )  # fmt: skip
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (path / "evaluations" / f"{model}.exact-match.jsonl").write_text(text, encoding="utf-8")
    return path


def write_library(root: Path) -> Path:
    """Write a folder with a finished run, one that continues it, one in progress and a search."""
    first = write_run(root, "2026-01-01_1000_tickets_a1b2", list_events())
    plan = make_plan(2e-4, lineage={"parent": str(first)})
    later = list_events("tickets-2", plan=plan, started="2026-01-02T10:00:00+00:00", value=0.9)
    write_run(root, "2026-01-02_1000_tickets-2_c3d4", later, right=9)
    half = list_events("mails", done=25, ends=False, started="2026-01-03T10:00:00+00:00")
    write_run(root, "2026-01-03_1000_mails_e5f6", half)
    for number, value in enumerate((0.6, 0.8, 0.7)):
        events = [
            sample_event(RunStarted, "search", plan=make_plan(1e-4 * (number + 1))),
            measure("tuned", value, part="validation"),
            sample_event(RunFinished, verdict={}),
        ]
        write_run(root, f"search/trial-{number:03d}", events)
    return root
