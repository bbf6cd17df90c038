"""The page: a template, filled from the report. What users wrote arrives escaped and harmless."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tunesmith.events import Measured, Sampled
from tunesmith.execution.regressions import changed_rows
from tunesmith.execution.report import Report
from tunesmith.execution.verdict import TUNED
from tunesmith.text import bytes_text, count_text, duration_text, one_line, redact, safe_text
from tunesmith_plugins.reporters.html.charts import SMALL, WIDTH, Bar, curve, intervals, number

LONGEST_TEXT = 2_000
"""Characters of an answer that the page shows."""
SAMPLES = 12
"""Things said in training that the page shows."""


@dataclass(frozen=True)
class Metric:
    """One metric over all models that were measured on it."""

    name: str
    about: str
    chart: Markup
    rows: list[Measured]


@dataclass(frozen=True)
class Stage:
    """One stretch of training in figures and curves, the loss first."""

    name: str
    facts: dict[str, str]
    curves: dict[str, Markup]
    details: dict[str, str]
    watched: dict[str, Markup]
    """What was seen on held-out records on the way."""
    samples: list[Sampled]
    """The last things that the model said while it was trained."""


def render(report: Report, folder: Path, most_changed: int) -> str:
    """The whole page as text.

    Args:
        report: what is known of the run.
        folder: the run's folder, where values record by record lie.
        most_changed: how many rows to show that a baseline did better on.
    """
    environment = Environment(
        loader=PackageLoader("tunesmith_plugins.reporters.html", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        safe=_refuse, line=one_line, text=_text, number=number, count=count_text
    )
    verdict = report.finished.verdict if report.finished else {}
    changed = changed_rows(folder, verdict, report) if verdict else []
    return environment.get_template("page.html").render(
        report=report,
        verdict=verdict,
        comparisons=verdict.get("comparisons", {}),
        metrics=list(_metrics(report)),
        gates=list(report.gates.values()),
        forecast=_forecast(report),
        stages=list(_stages(report)),
        changed=changed[:most_changed],
        changed_count=len(changed),
        notices=[notice for notice in report.notices if notice.level != "info"],
        plan=_plan(report),
        folder=folder,
    )


def _refuse(value: object) -> str:
    """The page trusts nothing that a template calls safe: charts are markup by their type."""
    raise TypeError("the filter `safe` is not for use here")


def _text(value: str) -> str:
    return safe_text(value, LONGEST_TEXT)


def _plan(report: Report) -> str:
    if report.started is None:
        return ""
    return redact(safe_text(tomli_w.dumps(_without_none(report.started.plan))))


def _without_none(value: Any) -> Any:
    """TOML has no null: what is not set is left out."""
    if isinstance(value, Mapping):
        return {key: _without_none(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value if v is not None]
    return value


def _metrics(report: Report) -> Iterator[Metric]:
    for name in dict.fromkeys(event.metric for event in report.measured.values()):
        rows = [event for event in report.measured.values() if event.metric == name]
        better = "higher" if rows[0].higher_is_better else "lower"
        unit = f"{rows[0].unit}, " if rows[0].unit else ""
        bars = [Bar(e.model, e.value, e.low, e.high, e.model == TUNED) for e in rows]
        chart = intervals(bars, f"{name} with 95 % intervals")
        yield Metric(name, f"{unit}{better} is better", chart, rows)


def _stages(report: Report) -> Iterator[Stage]:
    written = report.to_json()
    for name, started in report.training.items():
        figures = written["stages"][name] if name else written["training"]
        steps = sorted(step for stage, step in report.steps if stage == name)
        series = {
            "loss": figures["losses"],
            "learning rate": figures["learning_rates"],
            "gradient norm before clipping": figures["gradient_norms"],
            **{key.replace("_", " "): values for key, values in figures["extras"].items()},
        }
        speed = figures["tokens_per_second"]
        facts = {
            "technique": started.technique,
            "steps": f"{figures['steps']:,} of {started.steps:,}",
            "rows": f"{started.rows:,}, {started.epochs:g} times",
            "tokens": f"{figures['tokens']:,}, {figures['trained_tokens']:,} of them trained",
            "time": duration_text(figures["seconds"]),
            "speed": f"{speed:,.0f} tokens/s" if speed else "",
            "peak memory": bytes_text(figures["peak_memory_bytes"]),
            "trained parameters": (
                f"{started.trainable_parameters:,} of {started.parameters:,}"
                f" ({started.trainable_parameters / max(started.parameters, 1):.2%})"
            ),
            "device": started.device,
            "precision": started.precision,
        }
        widths = [WIDTH] + [SMALL] * (len(series) - 1)
        curves = {
            title: curve(steps, values, title, width)
            for (title, values), width in zip(series.items(), widths, strict=True)
        }
        yield Stage(
            name,
            {key: value for key, value in facts.items() if value},
            {title: chart for title, chart in curves.items() if chart},
            {key: _detail(value) for key, value in started.details.items()},
            _watched(figures["watched"]),
            [said for (stage, _, _), said in report.sampled.items() if stage == name][-SAMPLES:],
        )


def _watched(looks: list[dict[str, Any]]) -> dict[str, Markup]:
    """A curve for each figure; looks that lack it leave it out."""
    steps = [look["step"] for look in looks]
    names = dict.fromkeys(key for look in looks for key in look if key not in ("step", "best"))
    series = {name: [look.get(name) for look in looks] for name in names}
    curves = {name: curve(steps, values, name, SMALL) for name, values in series.items()}
    return {name: chart for name, chart in curves.items() if chart}


def _forecast(report: Report) -> dict[str, tuple[str, str]]:
    """What was foretold, and what came, as far as it has come."""
    said = report.to_json()["forecast"]
    if not said:
        return {}
    low, expected, high = (bytes_text(said["memory"][key]) for key in ("low", "expected", "high"))
    actual = said["actual"]
    found = bytes_text(actual["peak_memory_bytes"] + said["uncounted"]) if actual else ""
    rows = {f"peak memory ({said['phase']})": (f"{expected} ({low} to {high})", found)}
    if said["seconds"]:
        shortest, longest = map(duration_text, said["seconds"])
        took = duration_text(actual["seconds"]) if actual else ""
        rows["training time"] = (f"{shortest} to {longest}", took)
    return rows


def _detail(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
