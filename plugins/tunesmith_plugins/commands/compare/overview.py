"""Print tables of several runs: a ranking for each metric, and the run-file differences."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_evidence.comparison import MetricDifference, RunResults
from tunesmith_evidence.number_text import (
    format_difference,
    format_interval,
    format_number,
    format_rows,
    format_setting,
)
from tunesmith_plugins.commands.compare.difference import RunDifference

STYLES = {"better": "good", "improved": "good", "worse": "bad"}
NAME_LENGTH = 40
MAX_KEYS = 3
"""Maximum number of run file keys to show as columns, because more do not fit on a terminal."""


def show_overview(first: RunResults, found: Sequence[RunDifference], top: int) -> None:
    """Print a table for each metric, and one table with the run-file keys that differ.

    ``top`` is the number of runs to list besides the first one.
    """
    folders = [first.folder, *(difference.run.folder for difference in found)]
    names = {
        folder: one_line(name, NAME_LENGTH)
        for folder, name in zip(folders, name_folders(folders), strict=True)
    }
    listed: dict[Path, None] = {}
    for metric in dict.fromkeys(name for difference in found for name in difference.metrics):
        listed |= dict.fromkeys(show_metric(metric, first.folder, found, names, top))
    show_settings(first.folder, [d for d in found if d.run.folder in listed], names)


def show_metric(
    metric: str,
    first: Path,
    found: Sequence[RunDifference],
    names: Mapping[Path, str],
    top: int,
) -> list[Path]:
    """Print the runs by one metric, the best first; return the folders of the listed runs.

    The first run has no value if the other runs were compared with it on different rows.
    """
    measured = [(d.run.folder, d.metrics[metric]) for d in found if metric in d.metrics]
    sign = -1 if measured[0][1].higher_is_better else 1
    measured.sort(key=lambda item: sign * item[1].difference)
    rows: list[list[render.TableCell]] = [
        [
            names[folder],
            format_number(value.second),
            format_change(value.difference, value.low, value.high),
            format_rows(value.n, value.units),
            outcome_cell(value),
        ]
        for folder, value in measured[:top]
    ]
    better = sum(sign * value.difference < 0 for _, value in measured)
    values = {format_number(value.first) for _, value in measured}
    base: list[render.TableCell] = [
        (names[first], "strong"), (values.pop() if len(values) == 1 else "", "strong"), "", "",
        f"place {better + 1} of {len(measured) + 1}",
    ]  # fmt: skip
    rows.insert(min(better, top), base)
    order = "lower" if sign > 0 else "higher"
    title = f"{one_line(metric)}, {order} is better"
    header = ["run", "value", f"minus {one_line(names[first], 20)}, 95 % interval", "n", "is"]
    counts = {format_rows(value.n, value.units, "row") for _, value in measured}
    if len(counts) == 1:
        title += f", on {counts.pop()}"
        del header[3]
        for row in rows:
            del row[3]
    render.print_text(title, style="strong")
    render.print_table(header, rows, right=range(1, len(header) - 1))
    if len(measured) > top:
        render.print_text(
            f"and {format_count(len(measured) - top, 'more run')}, shown with --top 0"
        )
    render.print_text()
    return [folder for folder, _ in measured[:top]]


def show_settings(first: Path, found: Sequence[RunDifference], names: Mapping[Path, str]) -> None:
    """Print the run-file keys that differ, starting with those that differ in most runs."""
    keys, values = list_settings(found)
    if not keys:
        render.print_text("the run files are the same\n")
        return
    shown = [names[folder] for folder in (first, *(d.run.folder for d in found))]
    rows = [[name, *row[:MAX_KEYS]] for name, row in zip(shown, values, strict=True)]
    render.print_text("differences between the run files", style="strong")
    render.print_table(["run", *(one_line(key, NAME_LENGTH) for key in keys[:MAX_KEYS])], rows)
    if len(keys) > MAX_KEYS:
        render.print_text(f"{format_count(len(keys) - MAX_KEYS, 'more key')}, shown with --json")
    render.print_text()


def list_settings(found: Sequence[RunDifference]) -> tuple[list[str], list[list[str]]]:
    """Return the run-file keys that differ, those that differ in most runs first.

    Returns:
        The keys, and their values in the first run and in each other run.
    """
    base = {key: old for difference in found for key, (old, _) in difference.options.items()}
    keys = sorted(base, key=lambda key: -sum(key in difference.options for difference in found))
    rows = [[setting_text(base[key]) for key in keys]]
    for difference in found:
        values = (difference.options.get(key, (None, base[key]))[1] for key in keys)
        rows.append([*map(setting_text, values)])
    return keys, rows


def name_folders(folders: Sequence[Path]) -> list[str]:
    """Return the shortest unique endings of paths, such as `second/run` and `first/run`."""
    paths = [folder.resolve().parts for folder in folders]
    different = len(set(paths))
    names: list[str] = []
    for length in range(1, max(map(len, paths))):
        names = ["/".join(parts[-length:]) for parts in paths]
        if len(set(names)) == different:
            break
    return names


def format_change(difference: float, low: float, high: float) -> str:
    """Format a difference with its interval, such as "+0.060 [-0.012, +0.123]"."""
    return f"{format_difference(difference)} {format_interval(low, high, signed=True)}"


def outcome_cell(metric: MetricDifference) -> render.TableCell:
    """Return a table cell with better, worse or unclear, in the matching style."""
    word = metric.outcome if metric.is_clear else "unclear"
    return word, STYLES.get(word, "dim")


def setting_text(value: object) -> str:
    """Return the value of a run-file key as text, or `(none)` if the file lacks the key."""
    return "(none)" if value is None else one_line(format_setting(value), 60)
