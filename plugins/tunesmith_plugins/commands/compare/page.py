"""Render the comparison of runs as an HTML page. All text from users is escaped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.offers import Metric
from tunesmith_evidence.comparison import RunResults
from tunesmith_evidence.report.charts import IntervalBar, draw_intervals, draw_overlay
from tunesmith_evidence.report.html import build_environment
from tunesmith_evidence.report.leaderboard import (
    describe_cost_of_run,
    describe_size,
    rank_runs,
    read_loss_plots,
)
from tunesmith_evidence.report.view import MetricView, ReportView, ScoreRow
from tunesmith_plugins.commands.compare.difference import RunDifference
from tunesmith_plugins.commands.compare.overview import format_change, list_settings, name_folders

MAX_BARS = 12
"""Maximum number of runs in the chart of scores, which shows the first runs."""
MAX_KEYS = 8
"""Maximum number of run file keys that are columns."""


def render_page(
    first: RunResults, found: Sequence[RunDifference], metrics: Mapping[str, Metric]
) -> str:
    """Return the page that compares the first run and all others by each metric."""
    runs = [first, *(difference.run for difference in found)]
    names = dict(zip((r.folder for r in runs), name_folders([r.folder for r in runs]), strict=True))
    boards = [
        (MetricView(first.report.metric_label(*key), [p.measured for p in places]), places)
        for key in dict.fromkeys(key for run in runs for key in run.measured)
        if (places := rank_runs(runs, key, metrics))
    ]
    best = [place.run for place in boards[0][1]]
    bars = [
        IntervalBar(names[place.run.folder], event.value, event.low, event.high, not number)
        for number, place in enumerate(boards[0][1][:MAX_BARS])
        for event in (place.measured,)
    ]
    keys, values = list_settings(found)
    settings = dict(zip(names.values(), values, strict=True))
    environment = build_environment(__package__)
    environment.globals.update(
        change=format_change, score=ScoreRow.of, cost=describe_cost_of_run, size=describe_size
    )
    return environment.get_template("page.html").render(
        boards=boards,
        views={run.folder: ReportView(run.report, run.folder) for run in runs},
        names=names,
        chart=draw_intervals(bars, boards[0][0].label),
        max_bars=MAX_BARS,
        plots=[
            (stage, [*curves], draw_overlay(curves))
            for stage, curves in read_loss_plots({names[run.folder]: run for run in best})
        ],
        keys=keys[:MAX_KEYS],
        hidden=len(keys[MAX_KEYS:]),
        settings={names[run.folder]: settings[names[run.folder]][:MAX_KEYS] for run in best},
    )
