"""Held-out records that resemble a training record are found, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from splitting import split_prompts

from tunesmith.records import Completion, Record
from tunesmith_plugins.checks.leaks.find_leaks import find_leaks
from tunesmith_plugins.checks.leaks.review import review

WORDS = [f"{first}{second}" for first in "abcdefghij" for second in ("ler", "mont", "stic", "urn")]


def records(texts: Sequence[str], name: str = "a") -> list[Record]:
    return [
        Completion(source=f"{name}:{line}", prompt=text, completion="yes")
        for line, text in enumerate(texts, start=1)
    ]


def sentence(rng: Random, words: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def leaks(train: Sequence[str], heldout: Sequence[str]) -> list[tuple[int, int, bool]]:
    found = find_leaks(records(train), records(heldout))
    return [(leak.heldout, leak.train.known, leak.train.identical) for leak in found]


def test_copies_and_near_copies_are_found() -> None:
    rng = Random(1)
    train = [sentence(rng) for _ in range(200)]
    heldout = [sentence(rng) for _ in range(50)]
    assert leaks(train, heldout) == []
    heldout[3] = "  " + train[7].upper().replace(" ", ", ") + "!"
    changed = train[9].split()
    changed[5] = "different"
    heldout[4] = " ".join(changed)
    assert leaks(train, heldout) == [(3, 7, True), (4, 9, False)]


def test_a_clean_split_has_no_leaks() -> None:
    rng = Random(6)
    rows = [sentence(rng, 12) for _ in range(100)]
    rows += [row.title() for row in rows[:40]]
    result = split_prompts(rows, holdout=0.3, seed=0)
    assert leaks([rows[i] for i in result.train], [rows[i] for i in result.heldout]) == []


class LazyRecords(Sequence[Any]):
    """Records that are made when they are read, as those of a file on disk are."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, int), "a slice would copy records"
        if index >= len(self):
            raise IndexError
        return records([self.texts[index]])[0]

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]


def test_records_may_be_made_when_they_are_read() -> None:
    rng = Random(2)
    texts = [sentence(rng) for _ in range(30)]
    found = find_leaks(LazyRecords(texts), LazyRecords([texts[4]]))
    assert [leak.train.known for leak in found] == [4]


def test_the_warning_names_the_metric_and_the_first_leaks() -> None:
    train = records(["how do I reset my password", "where is my parcel", "cancel the order"])
    heldout = [
        *records(["an entirely different question"], "b"),
        *records(["Where is my parcel?", "how do I reset my passwort"], "c"),
    ]
    (finding,) = review(train, heldout)
    assert (finding.level, finding.where, finding.count) == ("warning", "data leaks", 2)
    assert finding.message == (
        "2 of 3 held-out rows are duplicates or near duplicates of a training row: 1 have the same "
        "letters and digits, 1 are similar (Jaccard similarity of character 5-grams at least 0.7, "
        "or 0.5 with that of words at least 0.75)"
    )
    assert finding.examples == (
        "c:1 (held out) and a:2 (training), identical",
        "c:2 (held out) and a:1 (training), 5-grams 0.89, words 0.71",
    )
    assert "too good" in finding.hint
    assert review(train, heldout[:1]) == []


@pytest.mark.parametrize("heldout", [[], ["one row"]])
def test_empty_parts_have_no_leaks(heldout: list[str]) -> None:
    assert leaks([], heldout) == leaks(["another"], heldout) == []
