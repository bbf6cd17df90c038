"""The list of runs: one row of cells for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.text import Text

from tunesmith.text import format_bytes
from tunesmith_tui.cells import (
    describe_state,
    format_score,
    format_seconds,
    shown,
)
from tunesmith_tui.library import Listed, find_start, find_value, is_trial

COLUMNS = {"": 1, "run": 21, "state or verdict": 20, "score [95 %]": 20, "time": 10}
"""Widths of the columns that fit into 80 characters, by heading."""
MORE = {"memory": 9, "tokens": 11, "technique": 10, "model": 14, "started": 16}
"""Widths of the columns that are shown where they fit."""
MIN_NAME, MAX_NAME, SCROLL_BAR = 8, 40, 2


def list_columns(width: int, group_by: str) -> dict[str, int]:
    """Return the widths of the columns that fit, by heading."""
    columns, group = dict(COLUMNS), {f"by {group_by}": 12} if group_by else {}
    left = width - SCROLL_BAR - sum(w + 1 for w in (*columns.values(), *group.values()))
    if left < 0:
        left += columns.pop("time") + 1
    for heading, needed in MORE.items():
        if needed < left:
            columns[heading] = needed
            left -= needed + 1
    columns["run"] = max(MIN_NAME, min(MAX_NAME, columns["run"] + left))
    return columns | group


def build_row(item: Listed, marked: Sequence[Path], columns: dict[str, int]) -> list[Text]:
    """Return the cells of a run."""
    run = item.run
    branch = ("  " * min(item.depth - 1, 4) + "└ ") * bool(item.depth)
    name = f"{run.path.parent.name}/{run.path.name}" if is_trial(run) else run.name
    cells = {
        "": "AB"[marked.index(run.path)] if run.path in marked else "",
        "run": f"{branch}{name}",
        "score [95 %]": format_score(run.score),
        "time": format_seconds(run.seconds),
        "memory": format_bytes(run.peak_memory) if run.peak_memory else "",
        "tokens": f"{run.tokens:,}" if run.tokens else "",
        "technique": find_value(run, "technique", "use"),
        "model": Path(find_value(run, "model", "base")).name,
        "started": find_start(run)[:16].replace("T", " "),
    }
    return [
        describe_state(run, width)
        if heading.startswith("state")
        else _indent(cells.get(heading, item.group), width)
        for heading, width in columns.items()
    ]


def _indent(text: str, width: int) -> Text:
    """Return text on one line, with the spaces that indent it in a tree."""
    plain = text.lstrip(" ")
    return Text(" " * (len(text) - len(plain))) + shown(plain, width - len(text) + len(plain))
