"""What a run came to, as a person reads it: table, verdict, loss curve, and what to type next."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

from tunesmith.cli import render
from tunesmith.events import Measured
from tunesmith.execution.regressions import Changed
from tunesmith.execution.report import Report
from tunesmith.execution.verdict import TUNED
from tunesmith.terminal import plot, unicode
from tunesmith.text import bytes_text, count_text, duration_text, one_line

OUTCOME_STYLES = {"better": "good", "worse": "bad"}


def show_scores(report: Report) -> None:
    """The table: one line per metric and model."""
    rows = [
        [event.model, _metric(event), f"{event.value:.3f}", _interval(event), str(event.n)]
        for event in sorted(report.measured.values(), key=_order(report))
    ]
    if rows:
        render.table(["model", "metric", "value", "95 % interval", "n"], rows, right=(2, 3, 4))


def show_verdict(report: Report) -> None:
    """The sentence that answers whether it was worth it."""
    verdict = report.finished.verdict if report.finished else {}
    if verdict:
        render.say()
        style = OUTCOME_STYLES.get(str(verdict.get("outcome")), "odd")
        render.paragraph(str(verdict.get("sentence", "")), style=style)


def show_training(report: Report) -> None:
    """One paragraph and a curve for each stage."""
    for stage, started in report.training.items():
        steps = [event for (name, _), event in sorted(report.steps.items()) if name == stage]
        seconds = sum(step.seconds for step in steps)
        tokens = sum(step.tokens for step in steps)
        peak = max((step.memory_bytes for step in steps), default=0)
        parts = [
            f"{started.technique}{f' ({stage})' if stage else ''}: step {len(steps)}"
            f" of {started.steps}",
            f"{started.trainable_parameters:,} of {started.parameters:,} parameters",
            duration_text(seconds),
            f"{tokens / seconds:,.0f} tokens/s" if seconds else "",
            f"peak memory {bytes_text(peak)}" if peak else "",
        ]
        render.say()
        render.say(", ".join(filter(None, parts)))
        if len(steps) > 1:
            render.say(f"loss, steps {steps[0].step} to {steps[-1].step}")
            for line in plot(
                [step.loss for step in steps], mark="•" if unicode(sys.stdout) else "*"
            ):
                render.say(f"  {line}", style="dim")
        _show_watched(report, stage)


def _show_watched(report: Report, stage: str) -> None:
    """What was seen on held-out records while a stage was trained."""
    looks = [event for (name, _), event in sorted(report.watched.items()) if name == stage]
    if not looks:
        return
    names = list(dict.fromkeys(name for look in looks for name in look.figures))
    rows = [
        [f"{look.step}{' best' if look.best else ''}"]
        + [f"{look.figures[name]:.3f}" if name in look.figures else "" for name in names]
        for look in looks
    ]
    render.table(["step", *map(one_line, names)], rows, right=range(1, len(names) + 1))


def show_gates(report: Report) -> None:
    """What the gates inside of the technique said."""
    for gate in report.gates.values():
        said = (
            "passed" if gate.passed else "not passed, accepted" if gate.accepted else "not passed"
        )
        style = "good" if gate.passed else "odd" if gate.accepted else "bad"
        render.say()
        text = f"gate {one_line(gate.stage)}, {one_line(gate.gate)}: {said}; "
        render.paragraph(text + one_line(gate.sentence, 1000), style=style)


def show_forecast(report: Report) -> None:
    """What was foretold of memory and time, and what it came to."""
    forecast, actual = report.forecast, report.to_json()["forecast"].get("actual")
    if forecast is None:
        return
    low, high = bytes_text(forecast.memory["low"]), bytes_text(forecast.memory["high"])
    said = f"foretold: peak memory {low} to {high}"
    if forecast.seconds:
        shortest, longest = (duration_text(seconds) for seconds in forecast.seconds)
        said += f", training in {shortest} to {longest}"
    if actual:
        peak, took = bytes_text(actual["peak_memory_bytes"]), duration_text(actual["seconds"])
        said += (
            f"; it took {peak}, {actual['memory_ratio']:.2f} times what was expected, and {took}"
        )
    render.say(said, style="dim")


def show_data(report: Report) -> None:
    """How many rows there were and which could not be used."""
    data = report.data
    if data is None:
        return
    rows = f"{count_text(data.train, 'row')} to learn from, {data.heldout:,} held out"
    render.say(f"data: {rows}{f' ({one_line(data.description, 200)})' if data.description else ''}")
    for cause, count in data.left_out.items():
        first = next((e for e in data.examples if e.get("cause") == cause), {})
        where = f", first {one_line(str(first['where']))}" if "where" in first else ""
        render.say(f"  left out: {count_text(count, 'row')}, {one_line(cause)}{where}")


def show_next(folder: Path, report: Report) -> None:
    """Where everything is, and what one would type next."""
    run = quoted(folder)
    render.remark(f"\nrun folder: {folder}")
    trained = report.trained.get("")
    lines = []
    if trained is not None:
        lines += [f"  tunesmith chat {run} --compare base", f"  tunesmith report {run}"]
        loader = "adapter" if trained.format == "adapter" else "model"
        lines.append(f"  the {loader} is in {quoted(folder / trained.artifact)}")
    elif report.status in ("failed", "unfinished"):
        lines.append(f"  tunesmith resume {run}")
    for line in lines:
        render.remark(line)


def show_changed(changed: list[Changed], rival: str, limit: int) -> None:
    """The rows that got worse: a table of the first few."""
    if not changed:
        return
    render.say()
    render.say(f"{count_text(len(changed), 'row')} that {rival} did better on:", style="strong")
    rows = [
        [one_line(c.source), one_line(c.expected), one_line(c.base), one_line(c.tuned)]
        for c in changed[:limit]
    ]
    render.table(["row", "expected", rival, TUNED], rows)
    if len(changed) > limit:
        render.say(f"and {len(changed) - limit} more; --failures {len(changed)} shows them")


def show_notices(report: Report) -> None:
    """Warnings that were given, once more."""
    for notice in report.notices:
        if notice.level != "info":
            text = f"{notice.level}: {one_line(notice.source)}: {one_line(notice.message, 500)}"
            render.say(text, style="bad" if notice.level == "error" else "odd")


def quoted(path: Path) -> str:
    """A path as one would type it: relative where it is below this folder."""
    here = Path.cwd()
    near = path.relative_to(here) if path.is_relative_to(here) else path
    return shlex.quote(str(near))


def _metric(event: Measured) -> str:
    better = "higher" if event.higher_is_better else "lower"
    unit = f"{event.unit}, " if event.unit else ""
    return f"{event.metric} ({unit}{better} is better)"


def _interval(event: Measured) -> str:
    return f"[{event.low:.3f}, {event.high:.3f}]"


def _order(report: Report) -> Any:
    """By metric as measured first, then base, few-shot, tuned as they came."""
    metrics = list(dict.fromkeys(event.metric for event in report.measured.values()))
    models = list(dict.fromkeys(event.model for event in report.measured.values()))
    return lambda event: (metrics.index(event.metric), models.index(event.model))
