"""Measurements of answers that are right only if each of several parts is right."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Measurement
from tunesmith.offers import Metric

__all__ = ["list_part_metrics", "measure_parts"]


def list_part_metrics(*names: str) -> tuple[Metric, ...]:
    """Return metrics with these names for :func:`measure_parts`, with values from 0 to 1."""
    return tuple(Metric(name=name, higher_is_better=True, bounds=(0, 1)) for name in names)


def measure_parts(
    metrics: Sequence[Metric], rows: Sequence[Sequence[bool]], outputs: tuple[str, ...]
) -> list[Measurement]:
    """Return one measurement for whole answers, and one for each part.

    Args:
        metrics: the metric of whole answers, then the metric of each part.
        rows: for each answer, whether each part is right.
        outputs: the answers.
    """
    whole = tuple(float(all(row)) for row in rows)
    return [
        Measurement(metric=metrics[0].name, values=whole, outputs=outputs),
        *(
            Measurement(metric=metric.name, values=tuple(float(row[part]) for row in rows))
            for part, metric in enumerate(metrics[1:])
        ),
    ]
