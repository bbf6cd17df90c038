"""One run: status, prediction, curves with intervals, scores, exit criteria and phases."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.events import TUNED
from tunesmith.text import format_bytes, format_count, format_duration
from tunesmith_evidence.number_text import format_duration_range, format_interval, format_number
from tunesmith_evidence.report.headline import find_headline
from tunesmith_tui.cells import (
    TONES,
    describe_damage,
    heading,
    join,
    paragraph,
    shown,
    word,
)
from tunesmith_tui.library import find_value
from tunesmith_tui.plot import Curve, draw_band, draw_interval, find_ends, format_axis, plot
from tunesmith_tui.run_state import LOSS, MAIN_CURVES, MEMORY, RunState, Stage

LOSS_HEIGHT, HEIGHT, GAP, TWO_COLUMNS_FROM = 8, 5, 4, 110


def render_run(run: RunState, width: int, machine: str) -> RenderableType:
    """Return everything about a run, the most important first."""
    return Group(
        *_render_head(run, width), *_render_forecast(run, width), *_render_machine(run, machine),
        *_render_curves(run, width), *_render_scores(run, width), *_render_gates(run),
        *_render_phases(run),
    )  # fmt: skip


def _render_head(run: RunState, width: int) -> Iterator[RenderableType]:
    facts = (shown(run.name, 40, "bold"), word(run.status),
             shown(find_value(run, "technique", "use"), 16),
             shown(Path(find_value(run, "model", "base")).name, 30))  # fmt: skip
    yield join(facts)
    if damage := describe_damage(run):
        yield paragraph(damage, "red")
    finished = run.report.finished
    if finished is None:
        yield join((shown(run.phase or "waiting for events", 40, "bold"),
                    describe_steps(run)))  # fmt: skip
        return
    found = find_headline(run.report, run.status)
    parts = (shown(found.word, 40, TONES[found.tone]), shown(found.figure, 20, "bold"),
             shown(found.interval, 60))  # fmt: skip
    yield join(parts)
    for text in (found.caption, found.sentence, finished.error, finished.hint):
        if text:
            yield paragraph(text)


def describe_steps(run: RunState) -> str:
    """Return the steps of the current stage, and the time left at its speed."""
    if run.current_stage is None:
        return ""
    _, stage = run.current_stage
    text = f"step {stage.step:,} of {stage.steps:,}"
    if run.holder is None or stage.step >= stage.steps:
        return text
    left = (stage.steps - stage.step) * stage.seconds / max(1, stage.step)
    return f"{text}, about {format_duration(left)} left"


def _render_forecast(run: RunState, width: int) -> Iterator[RenderableType]:
    forecast = run.report.forecast
    if forecast is None:
        return
    grid, bar = Table.grid(padding=(0, 2)), min(40, max(10, width - 62))
    if len(forecast.seconds) == 2:
        (low, high), seconds = forecast.seconds, run.training_seconds
        text = f"{format_duration(seconds)}; predicted {format_duration_range(low, high)}"
        grid.add_row(Text("training time"), Text(draw_band(low, high, seconds, bar)), Text(text))
    memory = forecast.memory
    if memory.keys() >= {"low", "high"}:
        peak = run.peak_memory + (forecast.untracked_bytes if run.peak_memory else 0)
        low, high = float(memory["low"]), float(memory["high"])
        text = f"{format_bytes(peak)}; predicted {format_bytes(memory['low'])} to "
        text += format_bytes(memory["high"])
        grid.add_row(Text("peak memory"), Text(draw_band(low, high, peak, bar)), Text(text))
    yield grid


def _render_machine(run: RunState, machine: str) -> Iterator[RenderableType]:
    if run.report.finished is None and machine:
        place = "this machine"
        if run.holder is not None and not run.holder.is_local():
            place = f"this machine (the run is on {run.holder.host})"
        yield join((shown(place, 60), Text(machine)), ": ")


def _render_curves(run: RunState, width: int) -> Iterator[RenderableType]:
    for name, stage in reversed(run.stages.items()):
        if name:
            yield heading("") + shown(name, 60, "bold underline")
        curves = list_curves(stage)
        if not curves:
            continue
        yield from plot(curves[0], width, LOSS_HEIGHT)
        rest = curves[1:]
        if width < TWO_COLUMNS_FROM:
            for curve in rest:
                yield from plot(curve, width, HEIGHT)
            continue
        half = (width - GAP) // 2
        grid = Table.grid(padding=(0, GAP, 0, 0))
        for left, right in zip(rest[::2], [*rest[1::2], None], strict=False):
            pair = (plot(curve, half, HEIGHT) if curve else [] for curve in (left, right))
            grid.add_row(*(Group(*lines) for lines in pair))
        yield grid


def list_curves(stage: Stage) -> list[Curve]:
    """Return the curves of a stage, the loss first."""
    names = [name for name in MAIN_CURVES if name in stage.curves]
    names += [name for name in stage.curves if name not in MAIN_CURVES]
    curves = [
        Curve(
            shown(name.replace("_", " "), 30).plain,
            stage.curves[name],
            stage.monitored.get("validation_loss") if name == LOSS else None,
            stage.steps,
            (lambda size: format_bytes(int(size))) if name == MEMORY else format_axis,
        )
        for name in names
    ]
    curves += [
        Curve(shown(name.replace("_", " "), 30).plain, series, None, stage.steps, format_axis)
        for name, series in stage.monitored.items()
        if name not in ("validation_loss", "train_loss")
    ]
    return [curve for curve in curves if curve.series.last and len(curve.series.buckets()) > 1]


def _render_scores(run: RunState, width: int) -> Iterator[RenderableType]:
    measured = [*run.report.measured.values(), *run.validation]
    for key in dict.fromkeys((e.evaluator, e.metric, e.part) for e in measured):
        scores = [e for e in measured if (e.evaluator, e.metric, e.part) == key]
        best = 1 if scores[0].higher_is_better else -1
        scores.sort(key=lambda e: (e.model != TUNED, -best * e.value))
        ends = find_ends(scores)
        label = run.report.metric_label(*key[:2])
        yield (
            heading("")
            + shown(label, 50, "bold underline")
            + Text(f"  {format_count(scores[0].n, f'{key[2]} row')}, 95 % intervals", "dim")
        )
        grid = Table.grid(padding=(0, 2))
        for e in scores:
            bar = draw_interval(e.value, e.low, e.high, ends, max(10, width - 54))
            style = "bold" if e.model == TUNED else ""
            value = f"{format_number(e.value)} {format_interval(e.low, e.high)}"
            grid.add_row(shown(e.model, 24, style), Text(value, style), Text(bar, style))
        yield grid


def _render_gates(run: RunState) -> Iterator[RenderableType]:
    if run.report.gates:
        yield heading("Exit criteria")
    for gate in run.report.gates.values():
        mark = Text("✓", "green") if gate.passed else Text("✗", "red")
        accepted = "accepted by the run file" if gate.accepted and not gate.passed else ""
        parts = (mark, shown(gate.stage, 16), shown(gate.gate, 30, "bold"), accepted)
        yield join(parts)
        yield paragraph(f"  {gate.message}")


def _render_phases(run: RunState) -> Iterator[RenderableType]:
    if run.phases or run.phase:
        yield heading("Phases")
        grid = Table.grid(padding=(0, 2))
        for phase, seconds in run.phases:
            grid.add_row(Text(format_duration(seconds), justify="right"), shown(phase, 60))
        if run.phase:
            grid.add_row(Text("now", "bold"), shown(run.phase, 60, "bold"))
        yield grid
