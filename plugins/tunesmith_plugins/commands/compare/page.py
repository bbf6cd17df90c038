"""Render the comparison of runs as an HTML page. All text from users is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from tunesmith.offers import Metric
from tunesmith_evidence.comparison import RunResults
from tunesmith_evidence.number_text import format_rows
from tunesmith_evidence.report.charts import IntervalBar, draw_intervals, draw_overlay
from tunesmith_evidence.report.headline import Headline, find_headline
from tunesmith_evidence.report.html import build_environment
from tunesmith_evidence.report.leaderboard import (
    Place,
    describe_cost_of_run,
    describe_size,
    list_loss_plots,
    rank_runs,
)
from tunesmith_evidence.report.view import MetricView, ReportView, ScoreRow
from tunesmith_plugins.commands.compare.difference import RunDifference
from tunesmith_plugins.commands.compare.overview import format_change, list_settings, name_folders

MAX_BARS = 12
"""Maximum number of runs in the chart of scores: the first ones."""
MAX_KEYS = 8
"""Maximum number of run file keys that are columns."""


@dataclass(frozen=True)
class RunFacts:
    """What the page says about a run, whatever the metric."""

    name: str
    title: str
    technique: str
    cost: str
    size: str
    headline: Headline

    @classmethod
    def of(cls, run: RunResults, name: str) -> RunFacts:
        """Return the facts of a run that is called ``name``."""
        view = ReportView(run.report, run.folder)
        technique = str(run.plan.get("technique", {}).get("use", ""))
        headline = find_headline(run.report, run.report.status)
        return cls(
            name, view.title, technique, describe_cost_of_run(run), describe_size(run), headline
        )


@dataclass(frozen=True)
class Line:
    """A line of a leaderboard."""

    facts: RunFacts
    is_first: bool
    score: ScoreRow
    change: str
    """The difference from the best run with its interval; empty for the best one."""
    rows: str
    """The rows that the difference is based on."""


@dataclass(frozen=True)
class Leaderboard:
    """The runs by one metric."""

    metric: MetricView
    lines: list[Line]
    chart: Markup

    @property
    def tied(self) -> int:
        """The number of runs that share the first rank."""
        return sum(line.is_first for line in self.lines)

    @classmethod
    def of(cls, places: Sequence[Place], label: str, facts: Mapping[str, RunFacts]) -> Leaderboard:
        """Return the leaderboard of a ranking; ``facts`` are those of each folder."""
        lines = [_build_line(place, facts[str(place.run.folder)]) for place in places]
        events = [place.measured for place in places]
        bars = [
            IntervalBar(line.facts.name, event.value, event.low, event.high, not number)
            for number, (line, event) in enumerate(zip(lines, events, strict=True))
        ]
        return cls(MetricView(label, events), lines, draw_intervals(bars[:MAX_BARS], label))


def render_page(
    first: RunResults, found: Sequence[RunDifference], metrics: Mapping[str, Metric]
) -> str:
    """Return the page that compares the first run and all others by each metric."""
    runs = [first, *(difference.run for difference in found)]
    names = name_folders([run.folder for run in runs])
    by_name = dict(zip(names, runs, strict=True))
    facts = {str(run.folder): RunFacts.of(run, name) for name, run in by_name.items()}
    keys = dict.fromkeys(key for run in runs for key in run.measured)
    boards = [
        Leaderboard.of(rank_runs(runs, key, metrics), first.report.metric_label(*key), facts)
        for key in keys
    ]
    best = {line.facts.name: by_name[line.facts.name] for line in boards[0].lines}
    header, values = list_settings(found)
    settings = dict(zip(names, values, strict=True))
    return (
        build_environment(__package__)
        .get_template("page.html")
        .render(
            boards=boards,
            count=len(runs),
            shown_bars=MAX_BARS,
            plots=[
                (stage, [*curves], draw_overlay(curves)) for stage, curves in list_loss_plots(best)
            ],
            header=header[:MAX_KEYS],
            settings={name: settings[name][:MAX_KEYS] for name in best},
            hidden=len(header[MAX_KEYS:]),
        )
    )


def _build_line(place: Place, facts: RunFacts) -> Line:
    difference = place.difference
    return Line(
        facts,
        place.is_first,
        ScoreRow.of(place.measured),
        format_change(difference.difference, difference.low, difference.high) if difference else "",
        format_rows(difference.n, difference.units) if difference else "",
    )
