"""Find leaks: held-out records that equal, or nearly equal, a training record.

A held-out score is meaningful only if the model was not trained on the same task: records are
compared by their prompts. The default split keeps similar prompts together; parts that the user
split can still leak.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.records import Record
from tunesmith_data.near_duplicates import DEFAULT_THRESHOLD, Match, Threshold, find_nearest
from tunesmith_data.splits import PromptTexts


@dataclass(frozen=True)
class Leak:
    """A held-out record, by its position, and the training record most similar to it."""

    heldout: int
    train: Match


def find_leaks(
    train: Sequence[Record],
    heldout: Sequence[Record],
    threshold: Threshold = DEFAULT_THRESHOLD,
) -> list[Leak]:
    """Find the held-out records with a duplicate or near duplicate among the training records.

    The records are not copied; their texts are made when they are read.

    Returns:
        One leak for each such held-out record, with the most similar training record.
    """
    matches = find_nearest(PromptTexts(train), PromptTexts(heldout), threshold=threshold)
    return [Leak(row, match) for row, match in enumerate(matches) if match is not None]
