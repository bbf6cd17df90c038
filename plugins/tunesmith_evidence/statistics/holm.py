"""Adjust p-values for multiple tests."""

from __future__ import annotations

from collections.abc import Sequence


def adjust_p_values(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values for multiple tests by Holm's method, keeping their order.

    If all hypotheses with an adjusted p-value below alpha are rejected, the probability of any
    false rejection is at most alpha, even if the tests depend on each other.

    Source: Holm, Scand. J. Statist. 6 (1979) 65.
    """
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(order):
        highest = max(highest, min(1.0, p_values[index] * (len(p_values) - rank)))
        adjusted[index] = highest
    return adjusted
