"""The page and the card of a chain."""

from __future__ import annotations

from tunesmith.events import Measured
from tunesmith.text import safe_text
from tunesmith_continual.findings import ChainFindings, describe
from tunesmith_evidence.number_text import format_number
from tunesmith_evidence.report.html import build_environment


def render_page(findings: ChainFindings) -> str:
    """Return the HTML page with the heat map."""
    template = build_environment(__package__).get_template("page.html")
    return template.render(
        findings=findings, matrix=findings.matrix, describe=describe, shade=_shade
    )


def _shade(value: float, low: float | None, high: float | None) -> int:
    """Return the share of a metric's range as a percentage, for the color of a cell."""
    if low is None or high is None:
        return 0
    return round(100 * (value - low) / (high - low))


def render_card(findings: ChainFindings) -> str:
    """Return the card in Markdown."""
    matrix = findings.matrix
    names = [safe_text(name).replace("|", "\\|") for name in matrix.names]
    lines = ["# Scores after each task", ""]
    lines += ["| after | " + " | ".join(f"on {name}" for name in names) + " |"]
    lines += ["|---|" + "---:|" * len(names)]
    stages = [("base", matrix.base), *((n, _row(findings, i)) for i, n in enumerate(names))]
    for name, cells in stages:
        values = [format_number(cells[j].value) if j in cells else "" for j in range(len(names))]
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    lines.append("")
    lines += [f"- {name}: {describe(value, signed)}" for name, value, signed in findings.figures]
    for metric, events in findings.side_effects:
        shown = [format_number(event.value) if event else "?" for event in events]
        lines.append(f"- {metric}, base model and after each task: {', '.join(shown)}")
    lines += ["", "Intervals are 95 %, paired by test row.", ""]
    return "\n".join(lines)


def _row(findings: ChainFindings, i: int) -> dict[int, Measured]:
    return {j: event for (k, j), event in findings.matrix.cells.items() if k == i}
