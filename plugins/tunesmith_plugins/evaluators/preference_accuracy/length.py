"""The part of a preference that length explains: a sign test over pairs of unequal length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.text import format_count
from tunesmith_evidence.number_text import format_p_value, format_share
from tunesmith_evidence.statistics import paired_p_value

MIN_SHARE, MAX_P_VALUE = 2 / 3, 0.01
"""Share of the pairs that one rule has to explain, and its p-value, to be worth a warning."""


@dataclass(frozen=True)
class LengthPreference:
    """How often the shorter and the longer answer of a pair is preferred."""

    shorter: int
    longer: int
    p_value: float
    """Probability that a coin is at least as far from one half; pairs of a group are one toss."""

    @classmethod
    def count(cls, differences: Sequence[int], groups: Sequence[str | None]) -> LengthPreference:
        """Count pairs by how much longer the preferred answer is; 0: they are equally long."""
        unequal = [(d, group) for d, group in zip(differences, groups, strict=True) if d]
        longer = [float(d > 0) for d, _ in unequal]
        shorter = [1 - value for value in longer]
        names = [group for _, group in unequal]
        p_value = paired_p_value(shorter, longer, groups=names) if unequal else 1.0
        return cls(int(sum(shorter)), int(sum(longer)), p_value)

    @property
    def word(self) -> str:
        """The length that is preferred more often."""
        return "shorter" if self.shorter > self.longer else "longer"

    @property
    def share(self) -> float:
        """Share of the pairs of unequal length with an answer of this length."""
        total = self.shorter + self.longer
        return max(self.shorter, self.longer) / total if total else 0.0

    @property
    def explains_most(self) -> bool:
        """True if length explains most pairs, and more than chance would."""
        return self.share >= MIN_SHARE and self.p_value <= MAX_P_VALUE

    def __str__(self) -> str:
        count, total = max(self.shorter, self.longer), self.shorter + self.longer
        test = f"{format_share(self.share)}, sign test {format_p_value(self.p_value)}"
        return f"{count:,} of {format_count(total, 'pair')} of unequal length ({test})"
