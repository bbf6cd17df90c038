"""Compute the exact similarities of pairs of texts."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from tunesmith_data.near_duplicates.features import (
    MAX_CHARACTERS,
    Boilerplate,
    Floats,
    Indices,
    NumberSets,
    Texts,
    read_blocks,
)

_BATCH_CHARACTERS = 1 << 18


def compare_pairs(
    first_texts: Texts,
    firsts: Indices,
    second_texts: Texts,
    seconds: Indices,
    boilerplate: Boilerplate | None,
) -> tuple[Floats, Floats]:
    """Return the Jaccard similarities of the 5-grams and of the words for each pair of texts.

    Pair i consists of ``first_texts[firsts[i]]`` and ``second_texts[seconds[i]]``. Texts are read
    in batches to limit memory use.
    """
    characters = np.zeros(len(firsts))
    words = np.zeros(len(firsts))
    pairs = list(zip(firsts.tolist(), seconds.tolist(), strict=True))
    side = 0 if first_texts is second_texts else 1
    done = 0
    for texts in _batches(first_texts, second_texts, pairs, side):
        features = dict(zip(texts, _python_sets(texts.values(), boilerplate), strict=True))
        while done < len(pairs):
            one = features.get((0, pairs[done][0]))
            other = features.get((side, pairs[done][1]))
            if one is None or other is None:
                break
            characters[done] = jaccard(one[0], other[0])
            words[done] = jaccard(one[1], other[1])
            done += 1
    return characters, words


def jaccard(one: frozenset[int], other: frozenset[int]) -> float:
    """Return the Jaccard similarity of two sets, or 0 if both are empty."""
    common = len(one & other)
    return common / max(1, len(one) + len(other) - common)


def _batches(
    first_texts: Texts,
    second_texts: Texts,
    pairs: Sequence[tuple[int, int]],
    side: int,
) -> Iterator[dict[tuple[int, int], str]]:
    """Yield the texts of consecutive pairs in batches, keyed by side and row."""
    texts: dict[tuple[int, int], str] = {}
    size = 0
    for first, second in pairs:
        if size >= _BATCH_CHARACTERS:
            yield texts
            texts, size = {}, 0
        for key, source in (((0, first), first_texts), ((side, second), second_texts)):
            if key not in texts:
                texts[key] = source[key[1]][:MAX_CHARACTERS]
                size += len(texts[key]) + 1
    if texts:
        yield texts


def _python_sets(
    texts: Iterable[str], boilerplate: Boilerplate | None
) -> Iterator[tuple[frozenset[int], frozenset[int]]]:
    for block in read_blocks(texts, boilerplate):
        yield from zip(_split(block.grams), _split(block.words), strict=True)


def _split(sets: NumberSets) -> Iterator[frozenset[int]]:
    values = sets.values.tolist()
    offsets = sets.offsets.tolist()
    for row in range(len(sets)):
        yield frozenset(values[offsets[row] : offsets[row + 1]])
