"""Find leaks, which are rows of one split whose answers rows of another split give away.

A test score is only meaningful if the model was not trained on the same questions, so this module
compares the prompts of records. The default split keeps similar prompts and groups together, but
files that the user split can leak.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, chain
from typing import Literal, TypeAlias, get_args, overload

import numpy as np
import numpy.typing as npt

from tunesmith.records import Record, Text, has_media, last_exchange
from tunesmith_data.near_duplicates import (
    NearestText,
    Texts,
    WordDifference,
    find_nearest,
    find_template_duplicates,
    find_word_difference,
)
from tunesmith_data.splits import PromptTexts, has_earlier_exchanges, read_exchanges

LeakKind = Literal["exact", "inside", "continued", "near", "template", "group", "answer"]
LEAK_KINDS: tuple[LeakKind, ...] = get_args(LeakKind)
Hashes: TypeAlias = npt.NDArray[np.uint64]
Indices: TypeAlias = npt.NDArray[np.int64]
Bits: TypeAlias = npt.NDArray[np.bool_]
SAMPLE_ROWS = 1_000
LABEL_LENGTH = 100
COMMON_SHARE, LEAST_COMMON = 0.2, 10
"""An exchange at the start of more rows than this share and number is a preamble, not a leak."""
SIMILAR_SHARE, EQUAL_SHARE = 0.75, 0.85
"""Minimum share of common words if one differing word is not a value, and if several are not."""
COMMON_WORDS = 5
"""Minimum number of common words if some of the differing words are not values."""
COMMON_BEFORE_END = 7
"""Minimum number of common words if only the last words, which may name the subject, differ."""


@dataclass(frozen=True, slots=True)
class Leak:
    """A row whose answer is given away by a row of another split, or by its own prompt."""

    kind: LeakKind
    row: int
    known: int = -1
    """Index of the row in the other split, or -1 if the leak involves no other row."""
    match: NearestText | None = None


def find_duplicates(
    known: Sequence[Record], queries: Sequence[Record], *, templates: bool = True
) -> Iterator[Leak]:
    """Yield a leak for each query whose prompt equals or resembles the prompt of a known record.

    There are three kinds:

    * exact: the same words and symbols,
    * near: similar 5-grams and words,
    * template: the same words in the same order, except for values such as names and numbers. The
      last kind is only found if ``templates`` is True, or if the 5-grams are similar too.

    If the answers are labels, rows with different labels are duplicates only if their prompts match
    exactly, because a model that has learned one label gets the other row wrong. The same holds for
    rows with media, such as images, whose texts only identify the content. To save memory, texts
    are extracted while records are read, and records are not copied.
    """
    texts, asked = PromptTexts(known), PromptTexts(queries)
    has_labels = _has_labels(known)

    def must_be_equal(row: int, other: int) -> bool:
        return has_media([queries[row]]) or (has_labels and _differ(known[other], queries[row]))

    others = []
    for row, match in enumerate(find_nearest(texts, asked)):
        if match is not None and match.identical:
            yield Leak("exact", row, match.known, match)
        elif match is None or must_be_equal(row, match.known):
            others.append(row)
        else:
            words = find_word_difference(texts[match.known], asked[row])
            yield Leak("near" if words.other_words else "template", row, match.known, match)
    if not templates:
        return
    found = set()
    for number, other in find_template_duplicates(texts, _Chosen(asked, others)):
        row = others[number]
        if row in found or must_be_equal(row, other):
            continue
        if _is_one_template(find_word_difference(texts[other], asked[row]), has_labels):
            found.add(row)
            yield Leak("template", row, other)


def find_shared_turns(known: Sequence[Record], queries: Sequence[Record]) -> Iterator[Leak]:
    """Yield a leak for each query that comes from the same conversation as a known record.

    Kind ``inside``: the query is the start of a longer known record, and training covers all its
        answers.
    Kind ``continued``: a known record contains an earlier answer of the query after the same turns.
    """
    if not any(map(has_earlier_exchanges, chain(queries, known))):
        return
    seen, asked = read_exchanges(known), read_exchanges(queries)
    most = max(LEAST_COMMON, int(COMMON_SHARE * len(known)))
    longer = _first_rows(seen.contexts, seen.rows, ~seen.is_last, asked.contexts[asked.is_last])
    shorter = _first_rows(seen.ends, seen.rows, seen.is_answer, asked.ends[~asked.is_last], most)
    leaks: dict[int, Leak] = {}
    for row, context, end, is_last in zip(
        *(x.tolist() for x in (asked.rows, asked.contexts, asked.ends, asked.is_last)), strict=True
    ):
        if is_last and context in longer:
            leaks[row] = Leak("inside", row, longer[context])
        elif not is_last and end in shorter:
            leaks.setdefault(row, Leak("continued", row, shorter[end]))
    yield from leaks.values()


def _first_rows(
    keys: Hashes, rows: Indices, chosen: Bits, wanted: Hashes, most: int | None = None
) -> dict[int, int]:
    """Map each wanted key to its first row, without keys that more than ``most`` rows have."""
    found = np.flatnonzero(chosen & np.isin(keys, wanted))
    values, firsts, counts = np.unique(keys[found], return_index=True, return_counts=True)
    usual = counts <= (most or len(keys))
    return dict(zip(values[usual].tolist(), rows[found][firsts[usual]].tolist(), strict=True))


def find_shared_groups(known: Sequence[Record], queries: Sequence[Record]) -> Iterator[Leak]:
    """Yield a leak for each query whose group also contains a known record."""
    groups = {record.group for record in queries} - {None}
    if groups:
        first: dict[str, int] = {}
        for row, record in enumerate(known):
            if record.group in groups:
                first.setdefault(str(record.group), row)
        for row, record in enumerate(queries):
            if record.group in first:
                yield Leak("group", row, first[record.group])


def _is_one_template(words: WordDifference, same_label: bool) -> bool:
    """Return True if two texts with the same skeleton differ (nearly) only in values.

    If both texts have the same label, other words may differ too.
    """
    if same_label:
        return True
    if words.only_at_end and words.common < COMMON_BEFORE_END:
        return False
    if not words.other_words:
        return True
    least = SIMILAR_SHARE if words.other_words == 1 else EQUAL_SHARE
    return words.common >= COMMON_WORDS and words.share >= least


def _has_labels(records: Sequence[Record]) -> bool:
    """Return True if answers are short and each occurs at least three times on average."""
    step = max(1, len(records) // SAMPLE_ROWS)
    answers = [_answer(records[row]) for row in range(0, len(records), step)]
    return all(0 < len(a) <= LABEL_LENGTH for a in answers) and 3 * len({*answers}) <= len(answers)


def _differ(one: Record, other: Record) -> bool:
    return _answer(one) != _answer(other)


def _answer(record: Record) -> str:
    return "" if isinstance(record, Text) else last_exchange(record)[1].text.strip()


class _Chosen:
    """A selection of the texts, without copying them."""

    def __init__(self, texts: Texts, rows: Sequence[int]) -> None:
        self._texts = texts
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> str:
        return self._texts[self._rows[index]]

    def __iter__(self) -> Iterator[str]:
        return (self._texts[row] for row in self._rows)


class JoinedRecords(Sequence[Record]):
    """Several sequences of records viewed as one, without copying them."""

    def __init__(self, parts: Sequence[Sequence[Record]]) -> None:
        self._parts = parts
        self._ends = [*accumulate(map(len, parts))]

    def __len__(self) -> int:
        return self._ends[-1]

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> list[Record]: ...
    def __getitem__(self, index: int | slice) -> Record | list[Record]:
        rows = range(len(self))[index]
        return self._get(rows) if isinstance(rows, int) else [self._get(row) for row in rows]

    def __iter__(self) -> Iterator[Record]:
        return chain.from_iterable(self._parts)

    def _get(self, row: int) -> Record:
        part = bisect_right(self._ends, row)
        return self._parts[part][row - (self._ends[part - 1] if part else 0)]
