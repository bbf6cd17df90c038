"""Texts from one template are found, and differences of words are told from those of values."""

from __future__ import annotations

from random import Random

import pytest

from tunesmith_data.near_duplicates import find_template_duplicates, find_word_difference
from tunesmith_data.near_duplicates.templates import MAX_CANDIDATES

WORDS = [f"{a}{b}" for a in ("ba", "co", "di", "fu", "ga", "he") for b in ("ler", "mont", "stic")]


def sentences(rng: Random, count: int) -> list[str]:
    return [" ".join(rng.sample(WORDS, 9)) for _ in range(count)]


@pytest.mark.parametrize("place", range(9))
@pytest.mark.parametrize("value", ["Zanzibar", "New York City", "17", '"a b c"', "/etc/x.d", "{n}"])
def test_a_text_with_another_value_is_found(place: int, value: str) -> None:
    """Also if the value of the other text is a word that many texts have, and at both ends."""
    known = sentences(Random(place), 60)
    words = known[33].split()
    words[place] = value
    assert list(find_template_duplicates(known, [" ".join(words)])) == [(0, 33)]


def test_any_number_of_values_may_differ() -> None:
    known = sentences(Random(5), 60)
    words = known[20].split()
    one = [*words[:3], "12", *words[3:6], "Anna", *words[6:], "7"]
    other = [*words[:3], "4000", "000", *words[3:6], "Peter Paul", *words[6:], "x8"]
    known[20] = " ".join(one)
    assert list(find_template_duplicates(known, [" ".join(other)])) == [(0, 20)]
    two_words = " ".join(["zap", *words[1:4], "zip", *words[5:]])
    assert list(find_template_duplicates([*known, two_words], [" ".join(words)])) == []


@pytest.mark.parametrize("values", [(3,), (5,), (3, 5)])
def test_a_frequent_word_beside_values_is_part_of_their_slot(values: tuple[int, ...]) -> None:
    known = sentences(Random(8), 60)
    words = known[20].split()
    for place in values:
        words[place] = str(place)
    known[20] = " ".join(words)
    words[4] = "Rome"
    assert list(find_template_duplicates(known, [" ".join(words)])) == [(0, 20)]


def test_names_are_values_however_frequent_they_are() -> None:
    known = [f"{text} will" for text in sentences(Random(9), 60)]
    words = known[20].split()[:9]
    one, other = (" ".join([*words[:4], name, *words[4:], name]) for name in ("Will", "Mark"))
    known += [f"mark {text}" for text in sentences(Random(10), 20)] + [one]
    assert list(find_template_duplicates(known, [other])) == [(0, len(known) - 1)]


def test_short_and_unrelated_texts_have_no_duplicates() -> None:
    known = [*sentences(Random(6), 80), "baler comont 5", "Anna 12", ""]
    queries = [*sentences(Random(7), 80), "baler comont 6", "Peter 13", ""]
    assert list(find_template_duplicates(known, queries)) == []
    assert (
        list(find_template_duplicates([], queries))
        == list(find_template_duplicates(known, []))
        == []
    )


def test_there_are_at_most_so_many_duplicates() -> None:
    known = [f"baler comont distic fuler gamont number {n}" for n in range(100)]
    found = list(find_template_duplicates(known, known[:2]))
    assert found == [(query, n) for n in range(MAX_CANDIDATES) for query in (0, 1)]


@pytest.mark.parametrize(
    ("one", "other", "words", "common", "other_words"),
    [
        ("Cancel order 17 now", "cancel order 4000 now!", 4, 3, 0),
        ('print "a b" and "c"', "print 'd' and `e`", 4, 2, 0),
        ("ask Anna, says Bob", "ask Carl, says Dan", 4, 2, 0),
        ("Anna has a cat, so Anna says", "Ben has a cat, so Ben says", 7, 5, 0),
        ("how do I close it", "how do I open it", 5, 4, 1),
        ("how do I close it", "how do I close it today please", 7, 5, 1),
        ("send 5 to me", "send some to me", 4, 3, 1),
        ("", "", 0, 0, 0),
    ],
)
def test_words_are_compared(
    one: str, other: str, words: int, common: int, other_words: int
) -> None:
    found = find_word_difference(one, other)
    assert (found.words, found.common, found.other_words) == (words, common, other_words)
    assert found.share == pytest.approx(common / max(1, words))


@pytest.mark.parametrize(
    ("one", "other", "at_end"),
    [
        ("how do I make a cake", "how do I make a very long kite", True),
        ("how do I make a cake now", "how do I make a kite now", False),
        ("how do I make a cake", "how do I make a cake", False),
        ("how do I make a", "how do I make a kite", False),
        ("why do I make a cake", "how do I make a kite", False),
    ],
)
def test_a_difference_at_the_end_is_told(one: str, other: str, at_end: bool) -> None:
    assert find_word_difference(one, other).only_at_end is at_end
