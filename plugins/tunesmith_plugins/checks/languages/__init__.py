"""Check ``languages``: count the languages of rows, and find answers in another language."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import Finding
    from tunesmith.records import Record

NEEDS = ("numpy>=1.26",)


@hookimpl
def tunesmith_review_data(train: Sequence[Record]) -> Sequence[Finding]:
    """Look at the languages of the training rows."""
    from tunesmith_plugins.checks.languages.review import review

    return review(train)
