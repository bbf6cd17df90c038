"""Find texts from one template: the same words in the same order, except for values.

A template has slots, as in ``Cancel order [number] of [date]``. A word counts as a slot value if it
looks like one (numbers, quotes, paths, addresses, placeholders, capitalized names) or if it is in
few texts. The remaining words are the text's skeleton. Two texts share a template if their
skeletons are equal, or equal after removing one word from either. The latter covers slots whose
value is a frequent word::

    Please cancel my order 4711 of 3 May     ->  please cancel my order _ of _
    Please cancel my order 88 of yesterday   ->  please cancel my order _ of yesterday
                                                 equal without "yesterday"

Skeletons are compared by their hashes, and memory use grows only with the number of queries. Use
:func:`find_word_difference` to confirm the proposed pairs word by word.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import numpy as np

from tunesmith_data.near_duplicates.features import (
    MAX_CHARACTERS,
    Bits,
    Hashes,
    Indices,
    Numbers,
    Texts,
    build_bit_table,
    mix_hashes,
    powers_of_base,
    read_words,
)

SAMPLE_ROWS = 4_096
FREQUENT_SHARE = 0.002
FREQUENT_ROWS = 3
"""A word is in skeletons if more sample texts than both limits contain it (not as a name)."""
MIN_WORDS = 4
MIN_WORD_SHARE = 0.5
"""Minimum number of skeleton words in a text, and their minimum share of all its words."""
MAX_CANDIDATES = 16

_SLOT = np.uint64(0x9E3779B97F4A7C15)
_NO_WORD = np.uint64(1 << 33)  # This bit is set for words, so that no word equals a slot or 0.
_TABLE_SHIFT = np.uint64(42)
_MARKS = '{<["`/\\@_*$~'
_OTHER_MARKS = re.compile(r"\.\w|(?<!\w)'")
# Each alternative starts with a fixed character, so most positions need only one comparison.
# Possessive quantifiers prevent backtracking.
_QUOTED = "|".join(rf"{mark}(?<!\w{mark})[^\"'`\n]{{1,80}}+{mark}(?!\w)" for mark in "\"'`")
_VALUES = re.compile(
    rf"{_QUOTED}|\{{\{{?[^{{}}\n]{{1,40}}+\}}\}}?|<[^<>\n]{{1,40}}+>|\[[^\[\]\n]{{1,40}}+\]"
    r"|(?<!\S)[^\s/\\@_*$~.]*+(?:[/\\@_*$~]|\.\w)\S*"
)
_WORD = re.compile(r"[^\W_]+")
_NAME = re.compile(r"(?<=[a-z,] )[A-Z][a-z][^\W_]*")


def find_template_duplicates(known: Texts, queries: Texts) -> Iterator[tuple[int, int]]:
    """Yield the index of a query and of a known text that may come from the same template.

    Each query gets at most 16 known texts, the first that are found.
    """
    step = max(1, len(known) // SAMPLE_ROWS)
    sample = [known[row] for row in range(0, len(known), step)]
    frequent = _find_frequent(sample)
    parts = [(np.zeros(0, np.uint64), np.zeros(0, np.int64)), *_read_keys(queries, frequent)]
    keys, rows = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    order = np.argsort(keys, kind="stable")
    keys, rows = keys[order], rows[order]
    table = np.zeros(1 << (64 - int(_TABLE_SHIFT)), dtype=np.bool_)
    table[keys >> _TABLE_SHIFT] = True
    found: dict[int, set[int]] = {}
    for their_keys, their_rows in _read_keys(known, frequent):
        likely = np.flatnonzero(table[their_keys >> _TABLE_SHIFT])
        first = np.searchsorted(keys, their_keys[likely])
        last = np.searchsorted(keys, their_keys[likely], side="right")
        for place in np.flatnonzero(last > first).tolist():
            row = int(their_rows[likely[place]])
            for query in rows[first[place] : last[place]].tolist():
                duplicates = found.setdefault(query, set())
                if len(duplicates) < MAX_CANDIDATES and row not in duplicates:
                    duplicates.add(row)
                    yield query, row


@dataclass(frozen=True, slots=True)
class WordDifference:
    """A word-by-word comparison of two texts."""

    words: int
    """Number of words in the longer text; a quoted value counts as one word."""
    common: int
    """Number of words that both texts have in the same order, excluding values."""
    other_words: int
    """Number of places where the texts differ in words that do not look like values."""
    only_at_end: bool = False
    """True if the texts differ only in their last words."""

    @property
    def share(self) -> float:
        """The share of the words that both texts have."""
        return self.common / max(1, self.words)


def find_word_difference(one: str, other: str) -> WordDifference:
    """Compare two texts word by word; values are recognized by their form."""
    first, second = _split_words(one), _split_words(other)
    common = other_words = 0
    codes = SequenceMatcher(None, first, second, autojunk=False).get_opcodes()
    for code, a, b, c, d in codes:
        if code == "equal":
            common += (b - a) - first[a:b].count("0")
        elif code != "replace" or {*first[a:b], *second[c:d]} != {"0"}:
            other_words += 1
    at_end = [code for code, *_ in codes] == ["equal", "replace"]
    return WordDifference(max(len(first), len(second)), common, other_words, at_end)


def _split_words(text: str) -> list[str]:
    """Return the words of a text with each value replaced by 0."""
    text = _mask_values(text)
    names = {name.casefold() for name in _NAME.findall(text)}
    words = [word.casefold() for word in _WORD.findall(text)]
    return ["0" if word in names or not word.isalpha() else word for word in words]


def _mask_values(text: str) -> str:
    text = text[:MAX_CHARACTERS]
    if any(mark in text for mark in _MARKS) or _OTHER_MARKS.search(text):
        return _VALUES.sub(" 0 ", text)
    return text


def _find_frequent(sample: list[str]) -> Bits:
    """Return the bit table of words that occur in many texts."""
    parts = [np.zeros(0, dtype=np.uint32)]
    for words, is_name in read_words(map(_mask_values, sample)):
        rows = np.repeat(np.arange(len(words), dtype=np.uint64), words.sizes())
        different = np.unique((rows << np.uint64(32) | words.values)[~is_name])
        parts.append(different.astype(np.uint32))
    values, counts = np.unique(np.concatenate(parts), return_counts=True)
    return build_bit_table(values[counts > max(FREQUENT_ROWS, FREQUENT_SHARE * len(sample))])


def _read_keys(texts: Iterable[str], frequent: Bits) -> Iterator[tuple[Hashes, Indices]]:
    """Yield the keys of consecutive texts (several per text), with the text of each key."""
    start = 0
    for words, is_name in read_words(map(_mask_values, texts)):
        is_slot = is_name | ~frequent[words.values >> np.uint32(12)]
        keys, rows = _skeleton_keys(words.values, words.sizes(), is_slot)
        yield keys, rows + start
        start += len(words)


def _skeleton_keys(values: Numbers, sizes: Indices, is_slot: Bits) -> tuple[Hashes, Indices]:
    """Return the keys of each skeleton, both whole and with one word removed, with their rows.

    A key is a polynomial hash of the words. A slot takes the place of a removed word.
    """
    rows = np.repeat(np.arange(len(sizes)), sizes)
    fixed = np.bincount(rows[~is_slot], minlength=len(sizes))
    is_long = (fixed >= MIN_WORDS) & (fixed >= MIN_WORD_SHARE * sizes)
    # Merge neighboring slots, so that a value can have any number of words.
    follows = np.append(False, is_slot[1:] & is_slot[:-1] & (rows[1:] == rows[:-1]))
    kept = np.flatnonzero(~follows[: len(rows)] & is_long[rows])
    rows, is_slot = rows[kept], is_slot[kept]
    numbers = np.where(is_slot, _SLOT, values[kept] | _NO_WORD)
    firsts = np.searchsorted(rows, rows)
    ends = np.searchsorted(rows, rows, side="right")
    places = np.arange(len(rows)) - firsts
    powers, inverses = powers_of_base(int(places.max(initial=0)) + 2)
    sums = np.concatenate(([np.uint64(0)], np.cumsum(numbers * powers[places], dtype=np.uint64)))
    before, after = sums[:-1] - sums[firsts], sums[ends] - sums[1:]
    same = rows[1:] == rows[:-1]
    left = np.append(False, is_slot[:-1] & same)[: len(rows)]
    right = np.append(is_slot[1:] & same, False)[: len(rows)]
    after = after - np.where(right, _SLOT * powers[places + 1], np.uint64(0))
    back = np.append(np.uint64(1), inverses)[left.astype(np.int64) + right]
    without = before + np.where(left, np.uint64(0), _SLOT * powers[places]) + after * back
    rest = fixed[rows] - 1
    usable = ~is_slot & (rest >= MIN_WORDS) & (rest >= MIN_WORD_SHARE * sizes[rows])
    whole = (sums[ends] - sums[firsts])[places == 0]
    keys = mix_hashes(np.concatenate([whole, without[usable]]))
    return keys, np.concatenate([rows[places == 0], rows[usable]])
