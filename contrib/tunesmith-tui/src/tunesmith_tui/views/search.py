"""The trials of a search with ``tunesmith tune``, the best first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from tunesmith.text import format_count
from tunesmith_evidence.comparison import list_plan_differences
from tunesmith_tui.cells import (
    describe_state,
    format_option,
    format_score,
    format_seconds,
    join,
    shown,
    word,
)
from tunesmith_tui.plot import draw_interval, find_ends
from tunesmith_tui.run_state import RunState

MAX_OPTIONS = 6


def render_search(trials: Sequence[RunState], width: int) -> RenderableType:
    """Return a table of the trials with the options that differ, or how to get one."""
    if not trials:
        return Text(
            "This run is not a trial of a search.\n\n"
            "`tunesmith tune run.toml` starts a search; its trials are listed here, with the "
            "options that differ and the score on the validation rows."
        )
    return Group(*_render(trials, width))


def _render(trials: Sequence[RunState], width: int) -> Iterator[RenderableType]:
    scored = [(trial, trial.score) for trial in trials]
    found = [(trial, score) for trial, score in scored if score is not None]
    rest = [trial for trial, score in scored if score is None]
    if found:
        sign = -1 if found[0][1].higher_is_better else 1
        found.sort(key=lambda item: sign * item[1].value)
    folder = trials[0].path.parent
    part = (
        f"{shown(found[0][1].metric, 30).plain} on {found[0][1].part} rows" if found else "no score"
    )
    yield join((shown(folder.name, 40, "bold"), format_count(len(trials), "trial"), part))
    keys = list_changed_options(trials)
    grid = Table.grid(padding=(0, 2))
    names = [key.rpartition(".")[2] for key in keys]
    headings = ("trial", "status", *names, "score [95 %]", "time", "")
    grid.add_row(*(shown(text, 14, "bold") for text in headings))
    bar_width = width - 62 - 12 * len(keys)
    ends = find_ends(score for _, score in found)
    for trial, score in [*found, *((trial, None) for trial in rest)]:
        values = [format_option(find_option(trial, key), 14) for key in keys]
        bar = draw_interval(score.value, score.low, score.high, ends, bar_width) if (
            score and bar_width >= 10) else ""  # fmt: skip
        grid.add_row(
            Text(trial.path.name.rpartition("-")[2]), word(trial.status), *map(Text, values),
            Text(format_score(score)) if score else describe_state(trial),
            Text(format_seconds(trial.seconds), justify="right"), Text(bar),
        )  # fmt: skip
    yield grid
    if len(found) > 1:
        best = found[0][1]
        within = sum(best.low <= score.value <= best.high for _, score in found[1:])
        yield Text(f"\nOther scores in the interval of the best: {within} of {len(found) - 1}.")


def list_changed_options(trials: Sequence[RunState]) -> list[str]:
    """Return the dotted keys of the options that differ between trials."""
    keys: dict[str, None] = {}
    for trial in trials[1:]:
        keys |= dict.fromkeys(list_plan_differences(trials[0].plan, trial.plan))
    technique = [key for key in keys if key.startswith("technique.")]
    return (technique or list(keys))[:MAX_OPTIONS]


def find_option(trial: RunState, key: str) -> object:
    """Return the value of a dotted key in a trial's plan."""
    value: object = trial.plan
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value
