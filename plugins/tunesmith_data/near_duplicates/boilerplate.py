"""Find boilerplate: grams and words that are in too many texts to distinguish them.

A shared instruction, or a template used by many rows, would make all these rows near-duplicates of
each other. Without the boilerplate, rows are compared by the parts that differ. The rows of a rare
template remain near-duplicates, because their shared text is not boilerplate.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from tunesmith_data.near_duplicates.features import (
    Boilerplate,
    Numbers,
    NumberSets,
    build_bit_table,
    deduplicate_sets,
    read_blocks,
)

SAMPLE_ROWS = 2_048
GRAM_SHARE = 0.2
WORD_SHARE = 0.8  # so that frequent words of the language do not count as boilerplate
MIN_ROWS = 10  # In small data, a cluster of duplicates could exceed the shares.


def find_boilerplate(sample: Iterable[str]) -> Boilerplate:
    """Return the grams in more than 20 %, and the words in more than 80 %, of the distinct texts.

    Grams and words in at most 10 texts are never boilerplate.
    """
    grams, words = _Counter(), _Counter()
    for block in read_blocks(sample):
        grams.add(block.grams)
        words.add(block.words)
    frequent_grams, shared = grams.split(GRAM_SHARE)
    frequent_words, _ = words.split(WORD_SHARE)
    return Boilerplate(build_bit_table(frequent_grams), build_bit_table(frequent_words), shared)


class _Counter:
    """Counts how many sets contain each number."""

    def __init__(self) -> None:
        self._parts = [np.zeros(0, dtype=np.uint32)]
        self._rows = 0

    def add(self, sets: NumberSets) -> None:
        self._parts.append(deduplicate_sets(sets).values)
        self._rows += len(sets)

    def split(self, share: float) -> tuple[Numbers, float]:
        """Return the numbers in more than ``share`` of the sets, and the mean overlap of the rest.

        The overlap of two sets is the number of other numbers that they have in common.
        """
        values, counts = np.unique(np.concatenate(self._parts), return_counts=True)
        frequent = counts > max(MIN_ROWS, share * self._rows)
        pairs = (counts[~frequent].astype(np.float64) ** 2).sum()
        return values[frequent], float(pairs / max(1, self._rows) ** 2)
