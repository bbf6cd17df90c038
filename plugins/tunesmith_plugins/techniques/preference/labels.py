"""Checks of the labels of a preference dataset: the loss can learn from them, and is balanced.

Torch is not imported here, so that ``tunesmith check`` can ask too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tunesmith.records import Preference, Record, UnpairedPreference
from tunesmith_torch.options.preference import PreferenceLossOptions

BALANCED = (1.0, 4 / 3)
"""Range of the weighted number of good answers divided by that of bad ones, ``lambda_D n_D /
(lambda_U n_U)`` (Ethayarajh et al. 2024, equation 8)."""


@dataclass(frozen=True)
class LabelCounts:
    """Numbers of good and bad answers. A pair has one of each."""

    labeled: int
    """Answers with a label, which are in no pair."""
    good: int
    """Number of good answers."""
    bad: int
    """Number of bad answers."""

    @classmethod
    def of_records(cls, records: Iterable[Record]) -> LabelCounts:
        """Count the answers of pairs and of labeled answers."""
        return cls.of_labels(map(_labels, records))

    @classmethod
    def of_labels(cls, rows: Iterable[Sequence[bool]]) -> LabelCounts:
        """Count the labels of rows, two for a pair and one for a labeled answer."""
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
    """Return why the loss cannot learn from these answers, and the way out; empty if it can."""
    if not counts.labeled:
        return ""
    if loss.type != "kto":
        return (
            f"{counts.labeled} rows hold one answer with a label, and {loss.type} needs pairs of "
            'answers: set technique.loss.type = "kto", which learns from both'
        )
    if counts.good and counts.bad:
        return ""
    label, other, way_out = "bad", "good", ""
    if counts.good:
        label, other = "good", "bad"
        way_out = ', or remove the column with the labels and train with technique "lora"'
    return (
        f"all {counts.labeled} labeled answers are {label}, and kto learns from the difference "
        f"between good and bad ones: add {other} answers{way_out}"
    )


def find_imbalance(counts: LabelCounts, loss: PreferenceLossOptions) -> str:
    """Return a warning if good and bad answers are out of balance, and nobody set a weight.

    Weights are not set from the data: the same options would then be another loss for another
    split, and runs could not be compared.
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
        f"{counts.good} good and {counts.bad} bad answers are out of balance: set "
        f"technique.loss.{key} = {sum(bounds) / 2:.2g}; {bounds[0]:.4g} to {bounds[1]:.4g} is "
        "recommended"
    )
