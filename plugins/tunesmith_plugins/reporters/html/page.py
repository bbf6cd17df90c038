"""Render the HTML page from a report. Every text from users is escaped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w
from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup

from tunesmith.events import TUNED, CompletionSampled, Measured
from tunesmith.execution.report import Report
from tunesmith.text import format_bytes, format_count, format_duration, one_line, redact, safe_text
from tunesmith_evidence.fit import diagnose_fit
from tunesmith_evidence.regressions import find_regressions
from tunesmith_plugins.reporters.html.charts import (
    HALF_WIDTH,
    NO_POINTS,
    WIDTH,
    IntervalBar,
    Series,
    draw_curve,
    draw_intervals,
    format_number,
)
from tunesmith_plugins.reporters.html.findings import list_findings

MAX_TEXT_CHARACTERS = 2_000
"""Characters of an answer that the page shows."""
DEV_LOSS = "dev_loss"
"""Name of the metric that is drawn beside the loss of the steps."""
MAX_SAMPLES = 12
"""Completions from training that the page shows, the last ones."""


@dataclass(frozen=True)
class MetricSection:
    """One metric over all models that it was measured for."""

    name: str
    description: str
    chart: Markup
    measurements: list[Measured]


@dataclass(frozen=True)
class StageSection:
    """One stage of training: facts, curves of the steps, and monitored metrics."""

    name: str
    facts: dict[str, str]
    curves: dict[str, Markup]
    details: dict[str, str]
    monitored: dict[str, Markup]
    """Curves of the metrics that were evaluated on dev rows during training; ``train_loss`` is the
    loss on as many training rows. The dev loss is in the same chart as the loss of the steps."""
    samples: list[CompletionSampled]
    """The last completions that were sampled during training."""


def render_page(report: Report, folder: Path, max_regressions: int) -> str:
    """Return the complete page as text.

    Args:
        report: the report of the run.
        folder: the run's folder, which holds the values per record.
        max_regressions: most rows to list on which the best baseline beats the tuned model.
    """
    environment = Environment(
        loader=PackageLoader("tunesmith_plugins.reporters.html", "."),
        autoescape=select_autoescape(default=True),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        safe=_refuse_safe,
        line=_line,
        text=_shorten,
        time=_time_text,
        number=format_number,
        count=format_count,
    )
    verdict = report.finished.verdict if report.finished else {}
    regressions = find_regressions(folder, verdict, report) if verdict else []
    return environment.get_template(
        "page.html"
    ).render(
        report=report,
        verdict=verdict,
        verdict_metric=report.metric_label(
            str(verdict.get("evaluator", "")), str(verdict.get("metric", ""))
        ),
        comparisons={  # earlier versions wrote other keys
            name: comparison
            for name, comparison in verdict.get("comparisons", {}).items()
            if "p_value_holm" in comparison
        },
        metrics=list(_metric_sections(report)),
        gates=list(report.gates.values()),
        fit=diagnose_fit(folder, report),
        forecast=_forecast_rows(report),
        stages=list(_stage_sections(report)),
        regressions=regressions[:max_regressions],
        regression_count=len(regressions),
        findings=list_findings(report, folder),
        plan=_plan_text(report),
        folder=folder,
    )


def _refuse_safe(value: object) -> str:
    """Refuse the filter ``safe``: only charts may be markup, and their type is Markup already."""
    raise TypeError("the filter `safe` must not be used in this template")


def _line(value: str, limit: int = 80) -> str:
    return one_line(redact(value), limit)


def _shorten(value: str) -> str:
    # Redacted before it is cut: half a secret is not recognized.
    return safe_text(redact(value), MAX_TEXT_CHARACTERS)


def _time_text(value: str) -> str:
    return one_line(value.replace("T", " ").replace("+00:00", " UTC"))


def _plan_text(report: Report) -> str:
    if report.started is None:
        return ""
    return redact(safe_text(tomli_w.dumps(_without_none(report.started.plan))))


def _without_none(value: Any) -> Any:
    """Remove None values, which TOML cannot represent."""
    if isinstance(value, Mapping):
        return {key: _without_none(v) for key, v in value.items() if v is not None}
    if isinstance(value, list):
        return [_without_none(v) for v in value if v is not None]
    return value


def _metric_sections(report: Report) -> Iterator[MetricSection]:
    measured = report.measured.values()
    for evaluator, metric in dict.fromkeys((e.evaluator, e.metric) for e in measured):
        events = [e for e in measured if (e.evaluator, e.metric) == (evaluator, metric)]
        name = report.metric_label(evaluator, metric)
        better = "higher" if events[0].higher_is_better else "lower"
        unit = f"{events[0].unit}, " if events[0].unit else ""
        bars = [IntervalBar(e.model, e.value, e.low, e.high, e.model == TUNED) for e in events]
        chart = draw_intervals(bars, f"{name} with 95 % intervals")
        yield MetricSection(name, f"{unit}{better} is better", chart, events)


def _stage_sections(report: Report) -> Iterator[StageSection]:
    content = report.to_json()
    for name, started in report.training_started.items():
        training = content["stages"][name] if name else content["training"]
        steps = sorted(step for stage, step in report.steps if stage == name)
        monitored = _monitored_series(training["monitored"])
        dev = monitored.pop(DEV_LOSS, NO_POINTS)
        loss = "loss; with marks: on dev rows" if dev[0] else "loss"
        series = {
            loss: training["losses"],
            "learning rate": training["learning_rates"],
            "gradient norm before clipping": training["gradient_norms"],
            **{key.replace("_", " "): values for key, values in training["metrics"].items()},
        }
        speed = training["tokens_per_second"]
        facts = {
            "technique": started.technique,
            "steps": f"{training['steps']:,} of {started.steps:,}",
            "training rows": f"{started.rows:,}",
            "epochs": f"{started.epochs:g}",
            "tokens": f"{training['tokens']:,}, {training['trained_tokens']:,} of them with loss",
            "rows left out or changed": "; ".join(
                f"{count:,}: {cause}" for cause, count in training["affected_rows"].items()
            ),
            "time": format_duration(training["seconds"]),
            "speed": f"{speed:,.0f} tokens/s" if speed else "",
            "peak memory": format_bytes(training["peak_memory_bytes"]),
            "trainable parameters": (
                f"{started.trainable_parameters:,} of {started.parameters:,}"
                f" ({started.trainable_parameters / max(started.parameters, 1):.2%})"
            ),
            "device": started.device,
            "precision": started.precision,
        }
        widths = [WIDTH] + [HALF_WIDTH] * (len(series) - 1)
        curves = {
            title: draw_curve(steps, values, title, width, dev=dev if title == loss else NO_POINTS)
            for (title, values), width in zip(series.items(), widths, strict=True)
        }
        yield StageSection(
            name,
            {key: value for key, value in facts.items() if value},
            {title: chart for title, chart in curves.items() if chart},
            {key: _detail_text(value) for key, value in started.details.items()},
            _monitored_curves(monitored),
            [event for (stage, _, _), event in report.samples.items() if stage == name][
                -MAX_SAMPLES:
            ],
        )


def _monitored_series(evaluations: list[dict[str, Any]]) -> dict[str, Series]:
    """Return steps and values of each metric; evaluations without the metric have None."""
    steps = [evaluation["step"] for evaluation in evaluations]
    names = dict.fromkeys(
        key for evaluation in evaluations for key in evaluation if key not in ("step", "best")
    )
    return {name: (steps, [each.get(name) for each in evaluations]) for name in names}


def _monitored_curves(series: Mapping[str, Series]) -> dict[str, Markup]:
    """Draw a curve for each metric."""
    titles = {name.replace("_", " "): values for name, values in series.items()}
    curves = {title: draw_curve(*values, title, HALF_WIDTH) for title, values in titles.items()}
    return {title: chart for title, chart in curves.items() if chart}


def _forecast_rows(report: Report) -> dict[str, tuple[str, str]]:
    """Return predicted and actual memory and time; actual ones are empty until training ends."""
    forecast = report.to_json()["forecast"]
    if not forecast:
        return {}
    low, expected, high = (
        format_bytes(forecast["memory"][key]) for key in ("low", "expected", "high")
    )
    actual = forecast["actual"]
    actual_memory = (
        format_bytes(actual["peak_memory_bytes"] + forecast["untracked_bytes"]) if actual else ""
    )
    rows = {f"peak memory ({forecast['phase']})": (f"{expected} ({low} to {high})", actual_memory)}
    if forecast["seconds"]:
        shortest, longest = map(format_duration, forecast["seconds"])
        actual_time = format_duration(actual["seconds"]) if actual else ""
        rows["training time"] = (f"{shortest} to {longest}", actual_time)
    return rows


def _detail_text(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=True)
