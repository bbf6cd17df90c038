"""Grams of other lengths than those of near duplicates."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

from tunesmith_data.near_duplicates.features import NumberSets, read_grams

TEXTS = ["Ab, cd", "abcdabcd", "ab", "", "xabc"]


def rows(sets: NumberSets) -> list[Counter[int]]:
    values, offsets = sets.values.tolist(), sets.offsets.tolist()
    return [Counter(values[a:b]) for a, b in pairwise(offsets)]


def test_grams_of_several_lengths_are_counted() -> None:
    (block,) = read_grams(TEXTS, (3, 4))
    threes, fours = map(rows, block)
    assert [sum(row.values()) for row in threes] == [2, 6, 1, 0, 2]
    assert [sum(row.values()) for row in fours] == [1, 5, 1, 0, 1]
    assert {*threes[0]} < {*threes[1]}  # abc, bcd
    assert threes[1].total() == 6 and max(threes[1].values()) == 2
    assert len({*threes[0]} & {*threes[4]}) == 1  # abc
    assert threes[2] == fours[2]  # a shorter text is one gram


def test_grams_do_not_depend_on_blocks() -> None:
    texts = [f"text number {number} " * 40 for number in range(500)]
    blocks = [rows(one[0]) for one in read_grams(texts, (3,))]
    assert len(blocks) > 1
    alone = [rows(next(read_grams([text], (3,)))[0])[0] for text in texts[-3:]]
    assert blocks[-1][-3:] == alone
