"""chrF and BLEU against sacrebleu, ROUGE-L against an independent computation."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF

from tunesmith.contracts import Measurement
from tunesmith.records import Completion
from tunesmith.statistics import mean_interval
from tunesmith.testing.examples import LABELS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_evidence.statistics import row_contributions
from tunesmith_plugins.evaluators.text_overlap.evaluator import (
    compute_bleu,
    compute_rouge_l,
    load_bleu,
)
from tunesmith_plugins.evaluators.text_overlap.offer import TEXT_OVERLAP, TextOverlapOptions

REFERENCES = [
    "The parcel has left the warehouse and arrives on Monday.",
    "Please restart the router and wait for five minutes.",
    "We have refunded the second charge of 12.50 euros.",
    "Your card is blocked; a new one is on its way to you.",
]
ANSWERS = [
    "The parcel has left the warehouse and will arrive on Monday.",
    "Restart your router, please.",
    "We have refunded 12.50 euros.",
    "",
]


def measure(answers: Sequence[str], references: Sequence[str]) -> dict[str, Measurement]:
    records = [
        Completion(source=f"a:{n}", prompt=f"q{n}", completion=text)
        for n, text in enumerate(references)
    ]
    model = FakeTextModel(answers={f"q{n}": text for n, text in enumerate(answers)})
    built = TEXT_OVERLAP.build(TextOverlapOptions(max_new_tokens=99))
    return {m.metric: m for m in built.measure(model, records)}


VOCABULARY = ["the", "parcel", "card", "is", "on", "its", "way", "Monday", "."]
WORDS = st.lists(st.sampled_from(VOCABULARY), max_size=12)
TEXTS = st.tuples(WORDS, WORDS.filter(bool))


@given(st.lists(TEXTS, min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_corpus_scores_are_those_of_sacrebleu(rows: list[tuple[list[str], list[str]]]) -> None:
    answers, references = [" ".join(a) for a, _ in rows], [" ".join(r) for _, r in rows]
    found = measure(answers, references)
    bleu = BLEU().corpus_score(answers, [references]).score
    chrf = CHRF().corpus_score(answers, [references]).score
    assert 100 * np.mean(found["bleu"].values) == pytest.approx(bleu, abs=1e-5)
    assert 100 * np.mean(found["chrf"].values) == pytest.approx(chrf, abs=1e-5)


def test_the_scores_of_an_example() -> None:
    found = measure(ANSWERS, REFERENCES)
    means = {name: round(float(np.mean(m.values)), 4) for name, m in found.items()}
    bleu = BLEU().corpus_score(ANSWERS, [REFERENCES]).score / 100
    assert means["bleu"] == pytest.approx(bleu, abs=1e-4)
    assert found["chrf"].outputs == (*ANSWERS,)
    assert 0 < means["bleu"] < means["rouge-l"] < 1
    assert found["chrf"].values[0] > found["chrf"].values[3]


@cache
def longest(first: tuple[str, ...], second: tuple[str, ...]) -> int:
    """Return the length of the longest common subsequence, by its definition."""
    if not first or not second:
        return 0
    if first[-1] == second[-1]:
        return longest(first[:-1], second[:-1]) + 1
    return max(longest(first[:-1], second), longest(first, second[:-1]))


@given(WORDS, WORDS)
@settings(deadline=None)
def test_rouge_l_by_its_definition(first: list[str], second: list[str]) -> None:
    given_words = tuple(w.lower() for w in first if w != ".")
    right = tuple(w.lower() for w in second if w != ".")
    found = compute_rouge_l(" ".join(first), " ".join(second))
    if not given_words or not right:
        assert found == float(not given_words and not right and first == second)
        return
    common = longest(given_words, right)
    precision, recall = common / len(given_words), common / len(right)
    f1 = 2 * precision * recall / (precision + recall) if common else 0.0
    assert found == pytest.approx(f1)


def test_rouge_l_counts_characters_in_scripts_without_spaces() -> None:
    # 6 of 7 characters are common, in order: 2 * 6 / (7 + 7).
    assert compute_rouge_l("東京駅で会った", "東京駅で待った") == pytest.approx(6 / 7)
    assert compute_rouge_l("Zug 12 ab 東京", "Zug 12 ab 大阪") == pytest.approx(2 * 3 / (5 + 5))


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [("+", "-", 0), (" + ", "+", 1), ("", "", 1), ("a_b", "a b", 1), ("日本", "日本", 1)],
)
def test_rouge_l_of_texts_without_plain_words(answer: str, reference: str, expected: int) -> None:
    assert compute_rouge_l(answer, reference) == expected


def test_it_is_used_only_if_it_is_named() -> None:
    assert not TEXT_OVERLAP.default_for(LABELS)
    assert TextOverlapOptions().max_new_tokens == "auto"


def test_the_interval_of_bleu_covers_it() -> None:
    """Of 200 samples of 100 rows, about 95 % have an interval with the BLEU of all 1,000 rows."""
    rng = random.Random(1)
    count_bleu = load_bleu()
    counts = []
    for _ in range(1_000):
        reference = rng.choices(VOCABULARY, k=rng.randrange(5, 25))
        quality = rng.betavariate(2, 1)
        answer = [w if rng.random() < quality else rng.choice(VOCABULARY) for w in reference]
        shown = answer[: len(answer) // 2] if rng.random() < 0.2 else answer
        counts.append(count_bleu(" ".join(shown), " ".join(reference)))
    true = float(compute_bleu(np.array(counts).sum(axis=0, keepdims=True))[0])
    covered = 0
    for _ in range(200):
        values = row_contributions(rng.choices(counts, k=100), compute_bleu)
        interval = mean_interval(values, resamples=200, bounds=(0, 1))
        covered += interval.low <= true <= interval.high
    assert 0.9 <= covered / 200 <= 0.99
