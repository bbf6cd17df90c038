"""The known answers are those of independent implementations."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest

from tunesmith.testing.known_answers import ALIASES, KNOWN, TOLERANCE


def overlap(answer: str, reference: str) -> float:
    """F1 of words as Dice's coefficient: twice the common words over all words."""
    words, expected = answer.split(), reference.split()
    common = sum(min(words.count(word), expected.count(word)) for word in set(words))
    return float(Fraction(2 * common, len(words) + len(expected)))


def sentence_bleu(answer: str, reference: str, added: int) -> float:
    """BLEU of one sentence with up to four words; ``added`` to counts of two words and more."""
    words, expected = answer.split(), reference.split()
    product = Fraction(1)
    for n in range(1, 5):
        grams = [tuple(words[i:])[:n] for i in range(len(words) - n + 1)]
        known = Counter(tuple(expected[i : i + n]) for i in range(len(expected) - n + 1))
        matches = sum(min(count, known[gram]) for gram, count in Counter(grams).items())
        extra = added if n > 1 else 0
        product *= Fraction(matches + extra, len(grams) + extra)
    shorter = len(words) < len(expected)
    return float(product) ** 0.25 * (math.exp(1 - len(expected) / len(words)) if shorter else 1)


@pytest.mark.parametrize("case", KNOWN["f1"])
def test_f1(case: object) -> None:
    assert case.values == pytest.approx([overlap(case.answer, case.reference)])  # type: ignore


@pytest.mark.parametrize("case", KNOWN["bleu"])
def test_bleu(case: object) -> None:
    computed = {sentence_bleu(case.answer, case.reference, added) for added in (0, 1)}  # type: ignore
    if max(computed) > 0.9 or min(computed) == 0:
        computed = {min(computed)}
    assert sorted(case.values) == pytest.approx(sorted(computed), abs=TOLERANCE)  # type: ignore


@pytest.mark.parametrize("name", ["exact-match", "accuracy"])
def test_exact_match(name: str) -> None:
    for case in KNOWN[name]:
        assert case.values == (float(case.answer == case.reference),)


def test_aliases_lead_to_known_metrics() -> None:
    assert set(ALIASES.values()) <= KNOWN.keys()
