"""``tunesmith data check``: find errors and suspicious rows in data, without a model."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from tunesmith.config.evaluators import default_evaluators
from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_cli.data_source import DataSource, data_argument
from tunesmith_data import RowOptions
from tunesmith_evidence.number_text import format_share
from tunesmith_plugins.commands.data.coverage import against_options, measure_traffic, open_encoder
from tunesmith_plugins.commands.data.open_data import (
    OpenedData,
    count_skipped,
    open_data,
    show_skipped,
)

FOUND_ERRORS_EXIT_CODE = 3
"""Exit code if there are errors, also used by other commands for invalid data."""
LEVELS = ("error", "warning", "info")
STYLES = {"error": "bad", "warning": "warning", "info": ""}
MESSAGE = 200
EXAMPLE = 300


@click.command("check")
@data_argument
@click.option(
    "--test",
    type=click.Path(path_type=Path),
    help="File of test rows to check for leaks into the training rows.",
)
@click.option(
    "--label-errors",
    is_flag=True,
    help="Also look for wrong labels. Takes a few minutes for 10,000 rows.",
)
@against_options
@result_options
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    data: DataSource,
    test: Path | None,
    label_errors: bool,
    production_file: Path | None,
    encoder_name: str | None,
    as_json: bool,
) -> int:
    """Find errors and suspicious rows in a data file, or in the data of a run file.

    Runs all installed data checks. For a data file alone, checks that need a run file are skipped.
    With --against, it also estimates the share of production traffic that the training rows do not
    cover. No model is loaded. The exit code is 3 if there are errors.
    """
    opened = open_data(data, state)
    if test is not None and opened.plan is not None:
        raise UsageError(
            "--test: this option needs a data file, not a run file",
            hint="set the test rows in the run file",
        )
    if test is not None:
        part = open_data(replace(data, path=test), state).dataset
        skipped = [*opened.dataset.skipped, *part.skipped]
        dataset = replace(opened.dataset, test=part.train, skipped=skipped)
        opened = replace(opened, dataset=dataset, parts={**opened.parts, "test": part.train})
    findings = collect_findings(opened)
    suspects = {}
    if label_errors:
        from tunesmith_data.label_errors import find_label_errors
        from tunesmith_plugins.commands.data import label_errors as report

        train = opened.parts["train"]
        found = find_label_errors(train)
        findings = sort([*findings, report.to_finding(found, train)])
        suspects = {"label_errors": report.to_json(found, train)}
    traffic = None
    if production_file is not None:
        encoder = open_encoder(encoder_name, opened.plan, opened.catalog)
        traffic = measure_traffic(opened.parts["train"], production_file, state, encoder)
    if as_json:
        coverage = {"coverage": traffic.to_json()} if traffic else {}
        render.print_json({**to_json(opened, findings), **suspects, **coverage})
    else:
        show(opened, findings)
        if traffic is not None:
            render.print_text("\ncoverage of production traffic:\n")
            traffic.show()
    return FOUND_ERRORS_EXIT_CODE if any(finding.level == "error" for finding in findings) else 0


def collect_findings(opened: OpenedData) -> list[Finding]:
    """Return the findings of all installed checks, errors first."""
    parts = {"validation": (), "test": (), **opened.parts}
    plan, catalog = opened.plan, opened.catalog
    evaluators = plan.evaluators or default_evaluators(catalog, parts["test"]) if plan else ()
    found = catalog.review_data(opened.dataset, plan, evaluators, **parts)
    named = (replace(finding, where=finding.where or plugin.name) for plugin, finding in found)
    return sort([*named, *_find_skipped(opened)])


def _find_skipped(opened: OpenedData) -> list[Finding]:
    """Return an error if a data file has more unusable rows than a run accepts by default."""
    unusable, allowed = len(opened.dataset.skipped), RowOptions.model_fields["max_skipped"].default
    rows = unusable + sum(map(len, opened.parts.values()))
    if opened.plan is not None or unusable <= allowed * rows:
        return []
    share = f"{unusable:,} of {rows:,} rows ({format_share(unusable / rows)})"
    return [
        Finding(
            level="error",
            where="data max_skipped",
            message=f"{share} cannot be used, and a run stops above {format_share(allowed)}",
            count=unusable,
            hint="fix these rows, or set max_skipped in [data]",
        )
    ]


def sort(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings sorted by level, errors first."""
    return sorted(findings, key=lambda finding: LEVELS.index(finding.level))


def show(opened: OpenedData, findings: Sequence[Finding]) -> None:
    """Print a table of the findings, then the examples and the hint of each finding."""
    render.print_paragraph(opened.dataset.description)
    show_skipped(opened.dataset)
    sizes = ", ".join(f"{len(part):,} {name}" for name, part in opened.parts.items())
    if not findings:
        render.print_text(f"no findings in {sizes} rows", style="good")
        return
    render.print_text(f"findings in {sizes} rows:\n")
    rows: list[list[render.TableCell]] = [
        [(f.level, STYLES[f.level]), f.where.removeprefix("data "), one_line(f.message, MESSAGE)]
        for f in findings
    ]
    render.print_table(["level", "check", "finding"], rows)
    for finding in findings:
        if finding.examples or finding.hint:
            render.print_text(f"\n{finding.message}", style="strong")
            for example in finding.examples:
                render.print_text(f"  {one_line(example, EXAMPLE)}")
            if finding.hint:
                render.print_text(f"  to do: {one_line(finding.hint, MESSAGE)}")


def to_json(opened: OpenedData, findings: Sequence[Finding]) -> dict[str, Any]:
    """Return the findings as JSON."""
    keys = ("level", "where", "message", "count", "examples", "hint")
    return {
        "schema": "tunesmith.data-check/1",
        "description": opened.dataset.description,
        "skipped": count_skipped(opened.dataset),
        "rows": {name: len(part) for name, part in opened.parts.items()},
        "findings": [{key: getattr(finding, key) for key in keys} for finding in findings],
    }
