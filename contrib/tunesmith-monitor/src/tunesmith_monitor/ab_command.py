"""``tunesmith ab``: compare two models in service, at any time."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from tunesmith.errors import DataError
from tunesmith.events import JSON
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_evidence.number_text import format_share
from tunesmith_monitor.sequential_comparison import SequentialComparison

CODES = {"go on": 0, "better": 10, "worse": 11}
MAX_DEVIATIONS = 4.0
"""Larger deviations of the number of users per model are an error of the split."""


@click.command("ab")
@click.argument("log", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option(
    "--outcomes", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True,
    help="JSON Lines file with `id` of an answer and `outcome` from 0 (bad) to 1 (good).",
)  # fmt: skip
@click.option("--first", default="tuned", show_default=True, help="Model that is in service.")
@click.option("--second", default="candidate", show_default=True, help="Model to compare with it.")
@click.option(
    "--share", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.5,
    show_default=True, help="Share of the users who get the second model, as set for the server.",
)  # fmt: skip
@click.option(
    "--error", type=click.FloatRange(0, 1, min_open=True, max_open=True), default=0.05,
    show_default=True, help="Largest probability of a decision if both models are equally good.",
)  # fmt: skip
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    log: Path,
    outcomes: Path,
    first: str,
    second: str,
    share: float,
    error: float,
    as_json: bool,
) -> int:
    """Compare two models in service by the outcomes of their answers.

    LOG is the file of the serve extension `monitor`. Look as often as you like: the error rate
    holds for all looks together. The first outcome of each user counts.

    Exit code 0: go on. 10: the second model is better. 11: it is worse.
    """
    comparison = compare_outcomes(log, outcomes, (first, second), share, error)
    means, counts = comparison.means, comparison.counts
    if as_json:
        better, worse = comparison.evidence
        content: JSON = {"decision": comparison.decision, "users": counts, "means": means}
        content |= {"evidence_better": better, "evidence_worse": worse, "needed": 2 / error}
        render.print_json({"schema": "tunesmith.ab/1", **content})
        return CODES[comparison.decision]
    render.print_text(comparison.decision.upper(), style="strong")
    for name, count, mean in zip((first, second), counts, means, strict=True):
        shown = format_share(mean) if count else "no outcome yet"
        render.print_text(f"  {name}: {shown} ({count:,} users)")
    better, worse = comparison.evidence
    render.print_paragraph(
        f"evidence for better {better:.3g}, for worse {worse:.3g}; a decision needs {2 / error:g}. "
        f"If the models are equally good, at most {format_share(error)} of comparisons ever decide."
    )
    if is_split_wrong(counts, share):
        render.print_note(
            f"warning: {counts[1]:,} of {sum(counts):,} users have {second}, which does not fit "
            f"--share {share:g}; outcomes may be lost for one model",
            style="warning",
        )
    return CODES[comparison.decision]


def compare_outcomes(
    log: Path, outcomes: Path, models: tuple[str, str], share: float, error: float
) -> SequentialComparison:
    """Compare two models by the first outcome of each user, in the order of the outcomes file.

    Memory grows with the number of outcomes, not of requests.
    """
    values: dict[str, float] = {}
    for where, row in _read(outcomes, is_log=False):
        values.setdefault(str(row["id"]), _outcome(row, where))
    asked = {
        str(row["id"]): (str(row["user"]), row["model"])
        for _, row in _read(log, is_log=True)
        if str(row["id"]) in values and row.get("user") and row.get("model") in models
    }
    comparison, seen = SequentialComparison(share, error), set[str]()
    for id_, value in values.items():
        user, model = asked.get(id_, ("", ""))
        if user and user not in seen:
            seen.add(user)
            comparison.add(model == models[1], value)
    return comparison


def is_split_wrong(counts: list[int], share: float) -> bool:
    """Return True if the users per model do not fit the share of the split."""
    total = sum(counts)
    deviation = math.sqrt(max(1, total) * share * (1 - share))
    return abs(counts[1] - total * share) > MAX_DEVIATIONS * deviation


def _outcome(row: Mapping[str, Any], where: str) -> float:
    value = row.get("outcome")
    if isinstance(value, (int, float)) and 0 <= value <= 1:
        return float(value)
    raise DataError(where, "`outcome` must be a number from 0 to 1")


def _read(path: Path, *, is_log: bool) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield the complete lines that have an id, each with its place.

    A log may have a damaged line, because a server can be killed, or its disk can be full.
    """
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return  # It is still being written.
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                if is_log:
                    continue
                hint = "correct or remove this line"
                raise DataError(f"{path}:{number}", "this is not JSON", hint=hint) from None
            if isinstance(row, dict) and "id" in row:
                yield f"{path}:{number}", row
