"""Two runs side by side: differences of their options, and paired differences of their scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith import plugins
from tunesmith.catalog import Catalog
from tunesmith_evidence.comparison import (
    MetricDifference,
    RunResults,
    adjust_differences,
    compare_metrics,
    find_comparison_obstacles,
    list_plan_differences,
)
from tunesmith_evidence.number_text import (
    format_difference,
    format_interval,
    format_number,
    format_p_value,
    format_rows,
)
from tunesmith_evidence.pairs import list_metrics
from tunesmith_tui.cells import format_option, heading, join, paragraph, shown, word
from tunesmith_tui.plot import draw_interval

BAR = 30


@dataclass(frozen=True)
class Compared:
    """Two runs: options that differ, paired differences, and obstacles to comparing them."""

    names: tuple[str, str]
    options: Mapping[str, tuple[Any, Any]]
    differences: Mapping[str, MetricDifference]
    obstacles: Sequence[str]
    """Reasons why the scores must not be compared."""


def compare_runs(first: Path, second: Path) -> Compared:
    """Read two runs and compare them.

    Raises:
        TunesmithError: a log or a file with the value of each row is missing or damaged.
    """
    runs = RunResults.read(first), RunResults.read(second)
    catalog = Catalog(plugins.find_plugins(plugins.Selection.from_environment()))
    obstacles = find_comparison_obstacles(*runs, catalog)
    found = {} if obstacles else compare_metrics(*runs, metrics=list_metrics(catalog))
    return Compared(
        (runs[0].report.name, runs[1].report.name),
        list_plan_differences(runs[0].plan, runs[1].plan),
        dict(zip(found, adjust_differences([*found.values()]), strict=True)),
        obstacles,
    )


def render_comparison(found: Compared, width: int) -> RenderableType:
    """Return the scores with paired intervals, then the options that differ."""
    parts: list[RenderableType] = [
        join(("A", shown(found.names[0], 34, "bold"), "B", shown(found.names[1], 34, "bold")))
    ]
    for reason in found.obstacles:
        parts.append(paragraph(f"Not compared: {reason}", "yellow"))
    for label, difference in found.differences.items():
        parts += _render_difference(label, difference, width)
    parts.append(heading(f"Options that differ: {len(found.options) or 'none'}"))
    grid = Table.grid(padding=(0, 2))
    value_width = max(12, (width - 34) // 2)
    for key, values in found.options.items():
        grid.add_row(shown(key, 30), *(Text(format_option(v, value_width)) for v in values))
    return Group(*parts, grid)


def _render_difference(label: str, found: MetricDifference, width: int) -> list[RenderableType]:
    outcome = found.outcome if found.is_clear else "unclear"
    p_value = found.p_value if found.p_value_holm is None else found.p_value_holm
    reach = max(abs(found.low), abs(found.high)) or 1.0
    bar_width = min(61, max(11, width - 10)) | 1
    interval = format_interval(found.low, found.high, signed=True)
    direction = "higher is better" if found.higher_is_better else "lower is better"
    better = {"better": "B is better", "worse": "A is better"}.get(outcome, "unclear")
    bar = draw_interval(found.difference, found.low, found.high, (-reach, reach), bar_width)
    middle = f"{'A':<{bar_width // 2}}0{'B':>{bar_width // 2}}"
    lines: list[RenderableType] = [
        heading("") + shown(label, 40, "bold underline") + Text(f"  {direction}", "dim"),
        join((f"A {format_number(found.first)}", f"B {format_number(found.second)}",
              f"B - A {format_difference(found.difference)} {interval}")),
        join((Text(better, word(outcome).style), format_p_value(p_value) + " (Holm)",
              f"{format_rows(found.n, found.units, 'test row')}",
              f"B won {found.won:,}, lost {found.lost:,}")),
    ]  # fmt: skip
    return [*lines, Text(bar), Text(middle, "dim")] if bar else lines
