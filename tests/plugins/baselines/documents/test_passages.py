"""Passages: where documents are split, and which passages are found."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence

import numpy as np
import pytest

from tunesmith.encoders import Encoder
from tunesmith_plugins.baselines.documents.passages import PassageIndex, split_document
from tunesmith_plugins.baselines.documents.read_folder import Document

TEXT = """Preface.

Rules
=====

## Parking ##

A permit costs 42 EUR. It is valid for a year.

```
# not a heading
```

### Guests

Free of charge.

## Lockers
"""


def split(text: str, words: int) -> list[str]:
    return [*split_document(Document("a.md", text), words)]


def test_a_passage_has_the_headings_above_it() -> None:
    assert split(TEXT, 50) == [
        "a.md\nPreface.",
        "Rules > Parking\nA permit costs 42 EUR. It is valid for a year.\n\n"
        "```\n# not a heading\n```",
        "Rules > Parking > Guests\nFree of charge.",
    ]


def test_long_sections_end_at_sentences() -> None:
    first, second, *_ = split(TEXT.removeprefix("Preface."), 6)
    assert first == "Rules > Parking\nA permit costs 42 EUR."
    assert second == "Rules > Parking\nIt is valid for a year."


@pytest.mark.parametrize("seed", range(20))
def test_no_word_is_lost_and_no_passage_is_too_long(seed: int) -> None:
    rng = random.Random(seed)
    ends = [" ", " ", " ", ". ", "\n", "\n\n", "! ", "。"]
    words = ["".join(rng.choices("ab漢", k=rng.choice([1, 3, 50]))) for _ in range(300)]
    text = "".join(word + rng.choice(ends) for word in words)
    limit = rng.choice([1, 2, 7, 40])
    parts = [part.partition("\n")[2] for part in split(text, limit)]
    assert "".join("".join(parts).split()) == "".join(text.split())
    assert all(len(part.split()) <= limit for part in parts)
    assert all(len(part) <= 21 * limit + text.count("\n\n") for part in parts)


class Axes:
    """An encoder whose vectors point to the first letter of the last word."""

    def encode(self, texts: Sequence[str], *, progress: object = None) -> np.ndarray:
        vectors = np.zeros((len(texts), 26), dtype=np.float32)
        for row, text in enumerate(texts):
            vectors[row, ord(text.split()[-1][0]) - ord("a")] = 1
        return vectors


def open_axes() -> Encoder:
    return Axes()


PASSAGES = ["parking permit zebra", "locker key apple", "parking garden apple", "nothing in common"]


def test_each_similarity_has_its_own_ranking() -> None:
    index = PassageIndex(PASSAGES, open_axes)
    question = "parking permit avocado"
    assert index.find(question, 4, "lexical") == [PASSAGES[0], PASSAGES[2]], "two share no word"
    assert index.find(question, 2, "embeddings") == [PASSAGES[1], PASSAGES[2]]
    # By 1 / (60 + rank): the third passage is second in both rankings.
    scores = [1 / 61 + 1 / 63, 1 / 61, 1 / 62 + 1 / 62, 1 / 64]
    expected = [PASSAGES[row] for row in sorted(range(4), key=lambda row: -scores[row])]
    assert index.find(question, 4, "both") == expected
    assert index.find("unknown words only", 4, "lexical") == []


class Random:
    """An encoder with a random vector for each text."""

    def encode(self, texts: Sequence[str], *, progress: object = None) -> np.ndarray:
        found = [np.random.default_rng(zlib.crc32(text.encode())).normal(size=8) for text in texts]
        return np.array([vector / np.linalg.norm(vector) for vector in found], dtype=np.float32)


def open_random() -> Encoder:
    return Random()


@pytest.mark.parametrize("seed", range(10))
def test_fusion_as_computed_by_hand(seed: int) -> None:
    rng = random.Random(seed)
    passages = [" ".join(rng.choices("abcdefghij", k=rng.randint(1, 9))) for _ in range(30)]
    index = PassageIndex(sorted({*passages}), open_random)
    ranks = [index.find("a b c", 30, how) for how in ("lexical", "embeddings")]
    assert len(ranks[1]) == len(index.passages) >= len(ranks[0])
    scores = {
        passage: sum(1 / (61 + rank.index(passage)) for rank in ranks if passage in rank)
        for passage in index.passages
    }
    found = index.find("a b c", 30, "both")
    assert {*found} == {*index.passages}
    assert [scores[one] for one in found] == pytest.approx(sorted(scores.values(), reverse=True))
