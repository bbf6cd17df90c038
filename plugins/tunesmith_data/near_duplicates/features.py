"""Turn texts into sets of numbers: hashes of their character 5-grams and of their words.

Texts are folded first (Unicode NFKC and case folding). Letters, marks, digits and symbols count,
but punctuation does not (:mod:`tunesmith_data.near_duplicates.punctuation` distinguishes them).
5-grams span the counted characters and ignore spaces. A text of fewer than five characters is one
gram. Each symbol is a word; in scripts without spaces, so is each character.

All characters in a block of texts are processed together, as arrays. The hash of a substring is the
difference of two prefix sums of a polynomial modulo 2**64 (Karp and Rabin, 1987).
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

from tunesmith_data.near_duplicates.character_map import CharacterMap
from tunesmith_data.near_duplicates.punctuation import SPELLINGS, blank_punctuation
from tunesmith_data.text import SCRIPTS_WITHOUT_SPACES

__all__ = ["fold_case_and_spelling"]

Numbers: TypeAlias = npt.NDArray[np.uint32]
Hashes: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
Classes: TypeAlias = npt.NDArray[np.uint8]
Bits: TypeAlias = npt.NDArray[np.bool_]
Floats: TypeAlias = npt.NDArray[np.float64]

GRAM_CHARACTERS = 5
MAX_CHARACTERS = 100_000
"""Longer texts are truncated, so that a single row cannot exhaust the memory."""

_BLOCK_CHARACTERS = 1 << 18
_BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that it has an inverse modulo 2**64
_INVERSE = np.uint64(pow(int(_BASE), -1, 1 << 64))
_MIX = np.uint64(0xD6E8FEB86659FD93)  # multiplier of rrxmrrxmsx_0 (Evensen, 2018)

_SPACE, _SYMBOL, _LETTER, _DIGIT, _IDEOGRAPH, _UNKNOWN = range(6)  # everything counts except spaces
_FIRST_OF_WORD = np.uint32(1 << 24)  # above all code points
_NUMBER = 1  # replaces every word that contains a digit
_SCRIPTS_OF_SINGLE_CHARACTERS = (
    *SCRIPTS_WITHOUT_SPACES,
    (0xAC00, 0xD7AF),  # Hangul: spaces separate phrases rather than words.
    (0x20000, 0x3FFFF),  # Han
)


class Texts(Protocol):
    """Texts by index: a list, or an object that reads texts on demand."""

    def __len__(self) -> int:
        """Return the number of texts."""
        ...

    def __getitem__(self, index: int, /) -> str:
        """Return one text."""
        ...

    def __iter__(self) -> Iterator[str]:
        """Yield all texts, in order."""
        ...


@dataclass(frozen=True)
class NumberSets:
    """One set of numbers per row; the set of row i is ``values[offsets[i]:offsets[i + 1]]``."""

    values: Numbers
    offsets: Indices

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def sizes(self) -> Indices:
        """Return the number of values in each row."""
        return np.diff(self.offsets)


@dataclass(frozen=True)
class Block:
    """The features of consecutive texts; a set can contain the same number more than once."""

    grams: NumberSets
    words: NumberSets
    keys: Hashes
    """Hash of all words and symbols in order; 0 for a text without words. Texts that only differ in
    punctuation and case have equal keys and equal features."""


@dataclass(frozen=True)
class Boilerplate:
    """Grams and words that occur in too many rows to distinguish them.

    Both are bit tables indexed by the first 20 bits of a number. Each entry also matches one in a
    million other numbers, but the same ones in all rows.
    """

    grams: Bits
    words: Bits
    shared_grams: float = 0.0
    """Mean number of other 5-grams that two texts have in common."""


def compute_text_keys(texts: Iterable[str]) -> Hashes:
    """Return the keys of texts; see :class:`Block`."""
    parts = [_keys(one) for one in _read_characters(texts)]
    return np.concatenate([np.zeros(0, dtype=np.uint64), *parts])


def read_blocks(texts: Iterable[str], boilerplate: Boilerplate | None = None) -> Iterator[Block]:
    """Yield the features of texts, in blocks of about 262,144 characters."""
    for characters in _read_characters(texts):
        yield _features(characters, boilerplate)


def read_grams(texts: Iterable[str], lengths: Sequence[int]) -> Iterator[list[NumberSets]]:
    """Yield the character n-grams of each length, in blocks of about 262,144 characters.

    A gram that occurs twice in a text is in its set twice.
    """
    for characters in _read_characters(texts):
        hashes = _Substrings(characters.codes)
        yield [_select(*_gram_sets(hashes, characters.offsets, length)) for length in lengths]


def read_words(texts: Iterable[str]) -> Iterator[tuple[NumberSets, Bits]]:
    """Yield the words of texts in order, and True for each word that looks like a name.

    A name is a capitalized ASCII word that does not start a sentence.
    """
    for block in _read_text_blocks(texts):
        characters = _characters(block)
        starts = np.flatnonzero(_word_starts(characters.all_classes, characters.counted))
        names = _find_names(block, starts)
        yield _word_sets(_Substrings(characters.codes), characters), names


def _find_names(texts: list[str], starts: Indices) -> Bits:
    """Return a boolean mask of the words that are names, by position in the joined texts."""
    if not all(map(str.isascii, texts)):
        folded = zip(texts, fold_case_and_spelling(texts), strict=True)
        # Names cannot be located in texts whose length changes by folding.
        texts = [text if len(text) == len(other) else other for text, other in folded]
    joined = "\n".join([*texts, "", "", ""])
    codes = np.frombuffer(joined.encode("utf-32-le", "surrogatepass"), np.uint32)
    is_small, is_capital = (codes >= 97) & (codes <= 122), (codes >= 65) & (codes <= 90)
    follows = (codes[starts - 1] == 32) & (is_small | (codes == 44))[starts - 2] & (starts > 1)
    names: Bits = is_capital[starts] & is_small[starts + 1] & follows
    return names


def deduplicate_sets(sets: NumberSets) -> NumberSets:
    """Return the sets sorted and without repeated numbers."""
    rows = np.repeat(np.arange(len(sets), dtype=np.uint64), sets.sizes())
    keyed = np.sort((rows << np.uint64(32)) | sets.values)
    keyed = keyed[np.append(True, keyed[1:] != keyed[:-1])[: len(keyed)]]
    counts = np.bincount((keyed >> np.uint64(32)).astype(np.int64), minlength=len(sets))
    return NumberSets(keyed.astype(np.uint32), np.concatenate(([0], np.cumsum(counts))))


def build_bit_table(values: Numbers) -> Bits:
    """Return the bit table of a :class:`Boilerplate` for these numbers."""
    table = np.zeros(1 << 20, dtype=np.bool_)
    table[values >> np.uint32(12)] = True
    return table


@dataclass(frozen=True)
class _Characters:
    """The counted characters of consecutive texts."""

    codes: Numbers
    offsets: Indices
    """The characters of text i are ``codes[offsets[i]:offsets[i + 1]]``."""
    all_classes: Classes
    """The class of every character, including those that do not count."""
    counted: Bits
    """A boolean mask of the characters that count."""


def _read_characters(texts: Iterable[str]) -> Iterator[_Characters]:
    return map(_characters, _read_text_blocks(texts))


def _read_text_blocks(texts: Iterable[str]) -> Iterator[list[str]]:
    block: list[str] = []
    size = 0
    for text in texts:
        block.append(text[:MAX_CHARACTERS])
        size += len(block[-1]) + 1
        if size >= _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    if block:
        yield block


def _characters(texts: list[str]) -> _Characters:
    joined = "\n".join([*texts, ""])
    if joined.isascii():
        joined = joined.lower()
    else:
        texts = fold_case_and_spelling(texts)
        joined = "\n".join([*texts, ""])
    codes, classes = _classified(blank_punctuation(joined))
    ends = np.cumsum([len(text) + 1 for text in texts], dtype=np.int64)
    starts = np.concatenate(([0], ends[:-1]))
    counted = classes > _SPACE
    sizes = np.add.reduceat(counted, starts, dtype=np.int64)
    return _Characters(
        codes[np.flatnonzero(counted)], np.append(0, np.cumsum(sizes)), classes, counted
    )


def fold_case_and_spelling(texts: Sequence[str]) -> list[str]:
    """Return texts with case and variants of characters folded."""
    others = iter(_FOLDED.apply([text for text in texts if not text.isascii()]))
    return [text.lower() if text.isascii() else next(others) for text in texts]


def _fold(text: str) -> str:
    spelled = unicodedata.normalize("NFD", text.translate(SPELLINGS))
    folded = unicodedata.normalize("NFKC", spelled.casefold())
    return unicodedata.normalize("NFKC", folded.casefold())


_FOLDED = CharacterMap(_fold)


def _keys(characters: _Characters) -> Hashes:
    starts, ends = characters.offsets[:-1], characters.offsets[1:]
    begins = _word_starts(characters.all_classes, characters.counted)[characters.counted]
    hashes = _Substrings(characters.codes + _FIRST_OF_WORD * begins)
    keys = hashes.between(starts, ends) | np.uint64(1)
    return np.where(starts < ends, keys, np.uint64(0))


def _features(characters: _Characters, boilerplate: Boilerplate | None) -> Block:
    hashes = _Substrings(characters.codes)
    grams, kept = _gram_sets(hashes, characters.offsets, GRAM_CHARACTERS)
    words = _word_sets(hashes, characters)
    if boilerplate is None:
        grams = _select(grams, kept)
    else:
        grams = _select(grams, kept & ~_in_table(grams.values, boilerplate.grams))
        words = _select(words, ~_in_table(words.values, boilerplate.words))
    return Block(grams, words, _keys(characters))


_ASCII_CLASSES = bytes(
    _DIGIT
    if chr(code) in "0123456789"
    else _LETTER
    if chr(code) in "abcdefghijklmnopqrstuvwxyz"
    else _SYMBOL
    if 32 < code < 127
    else _SPACE
    for code in range(256)
)


@lru_cache(maxsize=1)
def _class_table() -> Classes:
    """Return the table with the class of each code point; filled on demand, it takes a megabyte."""
    return np.full(0x110000, _UNKNOWN, dtype=np.uint8)


def _classified(text: str) -> tuple[Numbers, Classes]:
    """Return the code points of a text and their classes."""
    if text.isascii():
        raw = text.encode("ascii")
        return np.frombuffer(raw, np.uint8).astype(np.uint32), np.frombuffer(
            raw.translate(_ASCII_CLASSES), np.uint8
        )
    codes = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)
    table = _class_table()
    classes = table[codes]
    unknown = np.unique(codes[classes == _UNKNOWN])
    if len(unknown):
        table[unknown] = [_class_of(int(code)) for code in unknown]
        classes = table[codes]
    return codes, classes


def _class_of(code: int) -> int:
    category = unicodedata.category(chr(code))[0]
    if category in "LMN":
        alone = any(first <= code <= last for first, last in _SCRIPTS_OF_SINGLE_CHARACTERS)
        return _IDEOGRAPH if alone else _DIGIT if category == "N" else _LETTER
    return _SYMBOL if category in "PS" else _SPACE


class _Substrings:
    """Computes hashes of substrings of a sequence of code points."""

    def __init__(self, codes: Numbers) -> None:
        self._powers, self._inverses = powers_of_base(1 << max(18, len(codes).bit_length()))
        self._sums = np.zeros(len(codes) + 1, dtype=np.uint64)
        np.cumsum(codes * self._powers[: len(codes)], out=self._sums[1:])

    def between(self, starts: Indices, ends: Indices) -> Hashes:
        """Return the hashes of the substrings between these positions."""
        return mix_hashes((self._sums[ends] - self._sums[starts]) * self._inverses[starts])

    def of_length(self, length: int) -> Hashes:
        """Return the hash of the substring of this length at each position; 0 near the end."""
        hashes = np.zeros(len(self._sums) - 1, dtype=np.uint64)
        count = max(0, len(hashes) - length + 1)
        np.subtract(self._sums[length:], self._sums[:-length][:count], out=hashes[:count])
        hashes *= self._inverses[: len(hashes)]
        return mix_hashes(hashes)


def mix_hashes(hashes: Hashes) -> Hashes:
    """Mix the bits of hashes in place, so that the first bits depend on all bits."""
    for _ in range(2):
        hashes ^= hashes >> np.uint64(32)
        hashes *= _MIX
    return hashes


@lru_cache(maxsize=1)
def powers_of_base(count: int) -> tuple[Hashes, Hashes]:
    """Return the first ``count`` powers of the base and of its inverse, starting at exponent 1."""
    powers, inverses = (
        np.cumprod(np.full(count, base, dtype=np.uint64), dtype=np.uint64)
        for base in (_BASE, _INVERSE)
    )
    return powers, inverses


def _gram_sets(hashes: _Substrings, offsets: Indices, length: int) -> tuple[NumberSets, Bits]:
    """Return the gram that starts at each character, and a boolean mask of those within their row.

    A row shorter than the gram length is one gram.
    """
    values = _first_32_bits(hashes.of_length(length))
    kept = np.ones(len(values), dtype=np.bool_)
    lengths = np.diff(offsets)
    ends = offsets[1:]
    for tail in range(1, length):
        kept[ends[lengths >= tail] - tail] = False
    short = np.flatnonzero((lengths > 0) & (lengths < length))
    starts = offsets[short]
    values[starts] = _first_32_bits(hashes.between(starts, ends[short]))
    kept[starts] = True
    return NumberSets(values, offsets), kept


def _word_sets(hashes: _Substrings, characters: _Characters) -> NumberSets:
    classes, counted = characters.all_classes, characters.counted
    position = np.cumsum(counted) - 1  # index of each character among those that count
    starts = position[np.flatnonzero(_word_starts(classes, counted))]
    ends = np.append(starts[1:], len(characters.codes))
    values = _first_32_bits(hashes.between(starts, ends))
    digits = position[np.flatnonzero(classes == _DIGIT)]
    values[np.searchsorted(starts, digits, side="right") - 1] = _NUMBER
    return NumberSets(values, np.searchsorted(starts, characters.offsets).astype(np.int64))


def _word_starts(classes: Classes, counted: Bits) -> Bits:
    """Return a boolean mask of the counted characters where a word starts."""
    starts = np.append(True, ~counted[:-1])
    alone = (classes == _SYMBOL) | (classes == _IDEOGRAPH)
    if alone.any():
        starts |= alone
        starts[1:] |= alone[:-1]
    return starts & counted


def _first_32_bits(hashes: Hashes) -> Numbers:
    return (hashes >> np.uint64(32)).astype(np.uint32)


def _in_table(values: Numbers, table: Bits) -> Bits:
    result: Bits = table[values >> np.uint32(12)]
    return result


def _select(sets: NumberSets, kept: Bits) -> NumberSets:
    """Return the sets with only the selected numbers."""
    nonempty = np.flatnonzero(sets.sizes())
    counts = np.zeros(len(sets), dtype=np.int64)
    if len(nonempty):
        counts[nonempty] = np.add.reduceat(kept, sets.offsets[nonempty], dtype=np.int64)
    values = sets.values[np.flatnonzero(kept)]  # faster than with a mask
    return NumberSets(values, np.append(0, np.cumsum(counts)))
