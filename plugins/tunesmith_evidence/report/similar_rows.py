"""Group nearly identical failures, so that a list shows each kind of failure once."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tunesmith.text import format_count
from tunesmith_evidence.report.answers import AnswerRow

__all__ = ["SimilarRows", "join_similar_rows"]

MIN_SIMILARITY = 0.7
"""Smallest share of common words, among all words of two prompts (Jaccard)."""
MAX_COMPARED = 100
"""Number of different prompts with the same expected and given answer to compare with."""
_WORD = re.compile(r"[^\W\d_]+")


@dataclass
class SimilarRows:
    """A row, and further rows that fail in the same way."""

    row: AnswerRow
    others: list[AnswerRow] = field(default_factory=list)

    @property
    def note(self) -> str:
        """Text such as "and 4 similar rows", or an empty string if there are no similar rows."""
        return f"and {format_count(len(self.others), 'similar row')}" if self.others else ""

    @property
    def words(self) -> frozenset[str]:
        """The words of the question without numbers, which may differ between similar rows."""
        return frozenset(_WORD.findall(self.row.question.casefold()))


def join_similar_rows(rows: Sequence[AnswerRow]) -> list[SimilarRows]:
    """Join rows with equal answers whose prompts are nearly equal or belong to the same group.

    Right rows are not joined with wrong ones. Groups are listed by the position of their first row.
    """
    found: list[SimilarRows] = []
    by_answers: dict[tuple[object, ...], list[tuple[frozenset[str], SimilarRows]]] = {}
    for row in rows:
        new = SimilarRows(row)
        answer = row.answers[-1].text.strip() if row.answers else ""
        key = (row.expected.strip(), answer, row.is_wrong, row.is_regressed)
        known = by_answers.setdefault(key, [])
        words = new.words
        same = _find_similar(row, words, known) if row.is_wrong or row.is_regressed else None
        if same is not None:
            same.others.append(row)
            continue
        found.append(new)
        if len(known) < MAX_COMPARED:
            known.append((words, new))
    return found


def _find_similar(
    row: AnswerRow, words: frozenset[str], known: Sequence[tuple[frozenset[str], SimilarRows]]
) -> SimilarRows | None:
    for other_words, other in known:
        if row.group is not None and row.group == other.row.group:
            return other
        union = len(words | other_words)
        if union and len(words & other_words) >= MIN_SIMILARITY * union:
            return other
    return None
