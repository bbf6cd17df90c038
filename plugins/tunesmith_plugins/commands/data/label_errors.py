"""Report label errors as a finding, and as JSON with all suspect rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tunesmith.contracts import Finding
from tunesmith.records import Record
from tunesmith.text import mask_personal_data, one_line
from tunesmith_data.label_errors import LabelError, LabelErrors
from tunesmith_data.splits import prompt_text
from tunesmith_evidence.number_text import format_share, format_share_range

EXAMPLES = 3
PROMPT = 60
WARNING_SHARE = 0.03
"""The finding is a warning if the estimated share of wrong labels is at least this."""


def to_finding(found: LabelErrors, records: Sequence[Record]) -> Finding:
    """Return the result as a finding of the check ``label errors``."""
    highest = round(found.highest_share * found.rows)
    shares = format_share_range(found.share, found.highest_share)
    what = f"{shares} of the labels look wrong" if highest else "no label looks wrong"
    classifier = (
        f"a classifier that agrees with {format_share(found.agreement)} of {found.rows:,} labels"
    )
    return Finding(
        level="warning" if found.share >= WARNING_SHARE else "info",
        where="data label errors",
        message=f"{what}, according to {classifier}",
        count=found.count,
        examples=tuple(
            f"{records[suspect.row].source} {_quote(records[suspect.row])} has the label "
            f'"{_short(suspect.label)}", perhaps "{_short(suspect.suggested)}"'
            for suspect in found.suspects[: min(EXAMPLES, found.count)]
        ),
        hint="review the rows that --json lists, and correct their labels; do not remove test rows"
        if highest
        else "",
    )


def to_json(found: LabelErrors, records: Sequence[Record]) -> dict[str, Any]:
    """Return the result as JSON, including all suspect rows, the most suspect first."""

    def row(suspect: LabelError) -> dict[str, Any]:
        return {
            "source": records[suspect.row].source,
            "label": suspect.label,
            "suggested": suspect.suggested,
            "probability": suspect.probability,
        }

    return {
        "rows": found.rows,
        "labels": found.labels,
        "agreement": found.agreement,
        "share": found.share,
        "highest_share": found.highest_share,
        "suspects": [row(suspect) for suspect in found.suspects],
    }


def _quote(record: Record) -> str:
    return f'"{_short(prompt_text(record))}"'


def _short(text: str) -> str:
    return one_line(mask_personal_data(text), PROMPT)
