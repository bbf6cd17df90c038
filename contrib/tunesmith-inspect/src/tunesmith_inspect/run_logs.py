"""The evaluations of a run as logs of inspect: one for each model and evaluator."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inspect_ai.log import (
    EvalConfig,
    EvalDataset,
    EvalLog,
    EvalMetric,
    EvalResults,
    EvalSample,
    EvalScore,
    EvalSpec,
)
from inspect_ai.model import (
    ChatMessage,
    ChatMessageAssistant,
    ChatMessageSystem,
    ChatMessageTool,
    ChatMessageUser,
    ModelOutput,
)
from inspect_ai.scorer import Score

from tunesmith.events import Measured
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report

MESSAGES: dict[str, Any] = {
    "system": ChatMessageSystem,
    "user": ChatMessageUser,
    "assistant": ChatMessageAssistant,
    "tool": ChatMessageTool,
}


def make_logs(report: Report, folder: Path) -> Iterator[tuple[str, EvalLog]]:
    """Yield a name and a log for each model and evaluator of a run.

    Raises:
        IntegrityError: a file with results is missing or damaged.
    """
    groups: dict[tuple[str, str], list[Measured]] = defaultdict(list)
    for measured in report.measured.values():
        groups[measured.model, measured.evaluator].append(measured)
    for (model, evaluator), events in groups.items():
        rows: list[dict[str, Any]] = read_rows(folder / events[0].records, events[0].metric)
        samples = [to_sample(number, row, events) for number, row in enumerate(rows, 1)]
        started = report.started
        spec = EvalSpec(
            created=started.started if started else "",
            task=evaluator,
            task_version=events[0].version or 0,
            dataset=EvalDataset(name=folder.name, samples=len(samples)),
            model=f"tunesmith/{model}",
            config=EvalConfig(),
            packages={"tunesmith": (started.versions if started else {}).get("tunesmith", "")},
        )
        results = EvalResults(
            total_samples=len(samples),
            completed_samples=len(samples),
            scores=[to_score(event) for event in events],
        )
        yield (
            f"{model}.{evaluator}",
            EvalLog(status="success", eval=spec, results=results, samples=samples),
        )


def to_score(event: Measured) -> EvalScore:
    """Return a metric with the ends of its interval; only finite numbers are allowed."""
    values = {"mean": event.value, "low": event.low, "high": event.high}
    metrics = {
        name: EvalMetric(name=name, value=value)
        for name, value in values.items()
        if math.isfinite(value)
    }
    return EvalScore(name=event.metric, scorer=event.metric, metrics=metrics)


def to_sample(number: int, row: dict[str, Any], events: Sequence[Measured]) -> EvalSample:
    """Return a row with its answer and its values."""
    prompt, answer = row.get("prompt", ""), str(row.get("output", ""))
    turns: str | list[ChatMessage] = prompt
    if not isinstance(prompt, str):
        turns = [MESSAGES[role](content=text) for role, text in prompt]
    scores = {
        event.metric: Score(value=row[event.metric]["value"], answer=answer)
        for event in events
        if event.metric in row
    }
    return EvalSample(
        id=number,
        epoch=1,
        input=turns,
        target=str(row.get("expected", "")),
        output=ModelOutput.from_content("tunesmith", answer),
        scores=scores,
        metadata={"source": row["source"], **row.get("slices", {})},
    )
