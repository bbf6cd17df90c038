"""BM25 beside the formula."""

from __future__ import annotations

import math

from tunesmith_evidence.prompting.bm25 import BM25, K1, B, split_words

TEXTS = ["the lost card", "the card the card", "a loan", "", "The Transfer, of money: abroad"]


def test_scores_are_those_of_the_formula() -> None:
    documents = [split_words(text) for text in TEXTS]
    mean = sum(map(len, documents)) / len(documents)

    def score(query: str, words: list[str]) -> float:
        total = 0.0
        for word in set(split_words(query)):
            found = sum(word in document for document in documents)
            idf = math.log(1 + (len(documents) - found + 0.5) / (found + 0.5))
            tf = words.count(word)
            total += idf * tf * (K1 + 1) / (tf + K1 * (1 - B + B * len(words) / mean))
        return total

    for query in ("the card", "MONEY abroad!", "nothing", "", "the the loan"):
        expected = [score(query, words) for words in documents]
        assert all(map(math.isclose, BM25(TEXTS).scores(query), expected)), query


def test_ties_are_ranked_by_number() -> None:
    assert BM25(["b", "a", "a", "b"]).ranked("a").tolist() == [1, 2, 0, 3]
    assert BM25([]).ranked("a").tolist() == []
