"""Check whether a preference loss can learn from the labels of a dataset, and their balance.

This module does not import torch, because ``tunesmith check`` runs these checks too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.records import Preference, Record, UnpairedPreference
from tunesmith.text import format_count
from tunesmith_torch.options.preference import PreferenceLossOptions

BALANCED = (1.0, 4 / 3)
"""Recommended range of ``lambda_D n_D / (lambda_U n_U)``, the weighted number of good answers
divided by the weighted number of bad ones (Ethayarajh et al. 2024, equation 8)."""


@dataclass(frozen=True)
class LabelCounts:
    """The numbers of good and bad answers. A pair has one of each."""

    labeled: int
    """Number of labeled answers that do not belong to a pair."""
    good: int
    """Number of good answers, including the chosen answers of pairs."""
    bad: int
    """Number of bad answers, including the rejected answers of pairs."""

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> LabelCounts:
        """Count the answers of pairs and the labeled answers."""
        return cls.of_labels(map(_labels, records))

    @classmethod
    def of_labels(cls, rows: Iterable[Sequence[bool]]) -> LabelCounts:
        """Count the labels of rows, which are two for a pair and one for a labeled answer."""
        counts = Counter(tuple(labels) for labels in rows)
        good = sum(labels.count(True) * count for labels, count in counts.items())
        bad = sum(labels.count(False) * count for labels, count in counts.items())
        return cls(counts[(True,)] + counts[(False,)], good, bad)


def _labels(record: Record) -> tuple[bool, ...]:
    match record:
        case Preference():
            return (True, False)
        case UnpairedPreference():
            return (record.label,)
        case _:
            return ()


def find_label_problem(counts: LabelCounts, loss: PreferenceLossOptions) -> str:
    """Return why the loss cannot learn from these answers and what to do, or "" if it can learn."""
    if not counts.labeled:
        return ""
    if loss.type != "kto":
        return (
            f"the data contains {format_count(counts.labeled, 'labeled answer')} without a pair, "
            f'but {loss.type} needs pairs of answers: set technique.loss.type = "kto", which '
            "learns from both"
        )
    if counts.good and counts.bad:
        return ""
    label, other, way_out = "bad", "good", ""
    if counts.good:
        label, other = "good", "bad"
        way_out = ', or remove the label column and set technique.use = "lora"'
    return (
        f"the labeled answers ({counts.labeled:,}) are all {label}, but kto learns from the "
        f"difference between good and bad ones: add {other} answers{way_out}"
    )


def find_imbalance(counts: LabelCounts, loss: PreferenceLossOptions) -> str:
    """Return a warning if KTO's good and bad answers are imbalanced without weights, or "".

    Weights are never derived from the data. Otherwise, the same options would define a different
    loss on each split, and runs could not be compared.
    """
    weights = {loss.desirable_weight, loss.undesirable_weight}
    if loss.type != "kto" or weights != {1.0} or not (counts.good and counts.bad):
        return ""
    low, high = BALANCED
    ratio = counts.good / counts.bad
    if low <= ratio <= high:
        return ""
    if ratio > high:
        key, bounds = "undesirable_weight", (ratio / high, ratio / low)
    else:
        key, bounds = "desirable_weight", (low / ratio, high / ratio)
    return (
        f"{counts.good} good and {counts.bad} bad answers are imbalanced: set "
        f"technique.loss.{key} = {sum(bounds) / 2:.2g} (recommended: {bounds[0]:.4g} to "
        f"{bounds[1]:.4g})"
    )
