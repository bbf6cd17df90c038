"""Find secrets and personal data, and mask them in the examples of findings."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tunesmith.text import SECRET_MARKS, mask_personal_data, redact
from tunesmith_data.personal_data import KINDS, PersonalData
from tunesmith_plugins.checks.rows.block import Block
from tunesmith_plugins.checks.rows.detectors import CONTEXT, Detector
from tunesmith_plugins.checks.rows.row import Row

COMMON = ("EMAIL", "PHONE", "DATE OF BIRTH", "RECORD NUMBER")
"""Kinds that are often part of the task, and often do not belong to real people."""
HAS_LONG_NUMBER = ("IBAN", "CARD", "SSN", "PHONE")
HINT = "`tunesmith data fix FILE --mask --out NEW` replaces it with [{}]"


def mask(text: str) -> str:
    """Return the first and last two characters of a text, with "…" between them."""
    return f"{text[:2]}…{text[-2:]}"


def mask_address(text: str) -> str:
    """Return an e-mail address whose name is masked except for the first letter."""
    return f"{text[0]}…@{text.rpartition('@')[2]}"


def _create_detector(placeholder: str) -> Detector:
    """Create the detector for all kinds of personal data that share this placeholder."""
    kinds = [kind for kind in KINDS if kind.placeholder == placeholder]
    is_common = placeholder in COMMON
    return Detector(
        f"rows contain {kinds[0].what}",
        _find_first(kinds, mask_address if placeholder == "EMAIL" else mask),
        HINT.format(placeholder),
        level="info" if is_common else "warning",
        can_be_intended=is_common,
        marks=("@",) if placeholder == "EMAIL" else (),
        select=_with_long_number if placeholder in HAS_LONG_NUMBER else _with_number,
    )


def _find_first(
    kinds: Sequence[PersonalData], hide: Callable[[str], str]
) -> Callable[[Row], str | None]:
    """Return a function that finds the first value of these kinds in a row, and masks it."""

    def find(row: Row) -> str | None:
        values = (match.group() for kind in kinds for match in kind.find(row.text))
        return next((hide(value) for value in values), None)

    return find


def _find_secret(row: Row) -> str | None:
    if redact(row.text) == row.text:
        return None
    clean = mask_personal_data(row.text)
    start = clean.find("[redacted:")
    return clean[max(0, start - CONTEXT) : start + 2 * CONTEXT]


def _with_long_number(block: Block) -> Sequence[Row]:
    return block.with_long_number


def _with_number(block: Block) -> Sequence[Row]:
    return block.with_number


PERSONAL_DATA = (
    Detector(
        "rows contain a key, token or password",
        _find_secret,
        "remove it from the data and revoke it: a model can reproduce its training data",
        can_be_intended=False,
        marks=SECRET_MARKS,
    ),
    *map(_create_detector, dict.fromkeys(kind.placeholder for kind in KINDS)),
)
