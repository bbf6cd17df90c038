"""Chosen rows have no near duplicates and stand for all topics, also for rare ones."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from clean_rows import clean_rows

from tunesmith_data.vectors import fit_text_vectors
from tunesmith_plugins.commands.data.selection import select_rows

RARE = ("apply for a fishing licence", "book a tennis court", "renew a library card")


def prompts() -> list[str]:
    """Return 800 questions about orders, and four about each of three other topics."""
    return [row.prompt for row in clean_rows()] + [
        f"How do I {topic} {when}?"
        for topic in RARE
        for when in ("today", "online", "for my daughter", "without an account")
    ]


def test_rare_topics_are_among_the_chosen_rows() -> None:
    texts = prompts()
    found = select_rows(texts, 40)
    assert len(set(found.rows)) == 40 and found.rows == sorted(found.rows)
    counts = Counter(topic for row in found.rows for topic in RARE if topic in texts[row])
    assert len(counts) >= 2, "40 random rows have 0.6 of these topics"
    assert sum(counts.values()) < 10
    assert found.similarity > found.random_similarity + 0.02


def test_copies_are_skipped_and_similar_rows_as_long_as_there_are_others() -> None:
    texts = prompts()[:200]
    copies = [f"  {text.upper()}" for text in texts[:50]]
    few = select_rows([*texts, *copies], 10)
    assert few.equal == 50 and few.similar > 100 and len(few.rows) == 10
    many = select_rows([*texts, *copies], 220)
    assert (list(many.rows), many.equal, many.similar) == ([*range(200)], 50, 0)


def test_the_same_texts_give_the_same_rows() -> None:
    assert select_rows(prompts(), 30) == select_rows(prompts(), 30)
    assert select_rows(prompts(), 30).rows != select_rows(prompts(), 30, seed=1).rows


@pytest.mark.parametrize("texts", [["one"], ["?", "!"], ["same", "same"], ["ab cd", "ef gh ij"]])
def test_few_texts_are_all_chosen(texts: list[str]) -> None:
    found = select_rows(texts, 5)
    assert len(found.rows) == len(texts) - found.equal
    assert found.similarity == pytest.approx(1, abs=1e-3) or texts == ["?", "!"]


def test_vectors_have_length_1() -> None:
    vectors = fit_text_vectors(prompts())
    assert vectors.shape == (812, 128)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert not fit_text_vectors(["", " "]).any()
