"""Held-out rows that resemble a training row are found, and nothing else."""

from __future__ import annotations

import time
from random import Random

import pytest

from tunesmith.data.splits import split_records
from tunesmith.records import Completion
from tunesmith_plugins.checks.leaks.find_leaks import Leak, find_leaks
from tunesmith_plugins.checks.leaks.review import review

WORDS = [f"word{i}" for i in range(2_000)]


def sentence(rng: Random, words: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def edited(rng: Random, text: str) -> str:
    """One word changed, dropped or added, or the ends cut: similarity of 5-grams above 0.8."""
    words = text.split()
    place = rng.randrange(len(words))
    kind = rng.randrange(4)
    if kind == 0:
        words[place] = "changed"
    elif kind == 1:
        del words[place]
    elif kind == 2:
        words.insert(place, "added")
    else:
        words = words[2:-2]
    return " ".join(words)


def test_all_planted_copies_are_found() -> None:
    rng = Random(1)
    rows = [sentence(rng, 8) for _ in range(500)]
    planted = rng.sample(range(500), 50)
    copies = ["  " + rows[i].upper().replace(" ", " \n") for i in planted]
    assert find_leaks(rows[:250], rows[250:]) == []
    assert find_leaks(rows, copies) == [Leak(i, k, "exact", 1.0) for k, i in enumerate(planted)]


def test_near_copies_equal_brute_force() -> None:
    rng = Random(3)
    rows = [" ".join(rng.choices("abc", k=rng.randrange(3, 14))) for _ in range(150)]
    train, heldout = rows[:100], rows[100:]

    def grams(text: str) -> set[str]:
        words = text.split()
        return {" ".join(words[i : i + 5]) for i in range(max(1, len(words) - 4))}

    def similarity(one: str, other: str) -> float:
        return len(grams(one) & grams(other)) / len(grams(one) | grams(other))

    for threshold in (0.3, 0.5, 0.8, 1.0):
        best = [max(similarity(text, other) for other in train) for text in heldout]
        expected = {row: value for row, value in enumerate(best) if value >= threshold}
        found = find_leaks(train, heldout, threshold)
        assert {leak.heldout_index: leak.similarity for leak in found} == expected
        for leak in found:
            pair = train[leak.train_index], heldout[leak.heldout_index]
            assert similarity(*pair) == leak.similarity
    assert 0 < len(expected) < len(heldout)


def test_scripts_without_spaces_have_words() -> None:
    text = "我们感谢您的来信并将尽快答复您关于损坏商品的问题请您耐心等待谢谢"
    (leak,) = find_leaks([text], [text[:-1] + "啊", text[::-1]])
    assert (leak.heldout_index, leak.kind) == (0, "near")


def test_short_and_wordless_texts() -> None:
    found = find_leaks(["yes", "", "🎉", "no"], ["Yes", " ", "🎉", "!!", "nope"])
    assert [(leak.train_index, leak.heldout_index) for leak in found] == [(0, 0), (1, 1), (2, 2)]


def test_leaks_name_the_most_similar_row() -> None:
    rng = Random(4)
    train = [sentence(rng) for _ in range(300)]
    near = train[7].split()
    near[0] = "changed"
    farther = train[7].split()
    farther[30] = "changed"
    train.append(" ".join(farther))
    heldout = [sentence(rng), train[3].upper(), " ".join(near)]
    found = find_leaks(train, heldout)
    assert found[0] == Leak(3, 1, "exact", 1.0)
    assert (found[1].train_index, found[1].heldout_index, found[1].kind) == (7, 2, "near")
    assert found[1].similarity == pytest.approx(55 / 57)
    assert len(found) == 2
    assert find_leaks([], heldout) == find_leaks(train, []) == []


def test_planted_leaks_are_found() -> None:
    rng = Random(5)
    train = [sentence(rng) for _ in range(400)]
    heldout = [edited(rng, train[i]) for i in range(200)] + [sentence(rng) for _ in range(100)]
    found = find_leaks(train, heldout)
    assert len(found) >= 190
    assert all(leak.train_index == leak.heldout_index for leak in found)


def test_a_clean_split_has_no_leaks() -> None:
    rng = Random(6)
    rows = [sentence(rng, 12) for _ in range(100)]
    rows += [row.title() for row in rows[:40]]
    result = split_records(rows, holdout=0.3, seed=0)
    assert find_leaks([rows[i] for i in result.train], [rows[i] for i in result.heldout]) == []


@pytest.mark.parametrize("threshold", [0.0, 1.5])
def test_a_threshold_out_of_range_is_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold: must be in"):
        find_leaks(["a"], ["b"], threshold)


@pytest.mark.parametrize("kind", ["prose", "one template"])
def test_twenty_thousand_rows_take_seconds(kind: str) -> None:
    rng = Random(8)
    if kind == "prose":
        rows = [sentence(rng, 40) for _ in range(20_000)]
    else:
        rows = [f"{' '.join(WORDS[:15])} {i} {' '.join(WORDS[15:30])}" for i in range(20_000)]
    started = time.process_time()
    find_leaks(rows[::2], rows[1::2])
    assert time.process_time() - started < 8  # 2 s on a quiet core


def test_the_first_leak_is_named() -> None:
    train = [Completion(source=f"a:{n}", prompt=f"q {n}", completion="yes") for n in range(5)]
    heldout = [Completion(source="b:1", prompt="other", completion="yes"), *train[3:4]]
    (finding,) = review(train, heldout)
    assert (finding.level, finding.where) == ("warning", "data")
    assert finding.message.startswith("1 of 2 held-out rows are duplicates or near duplicates")
    assert finding.message.endswith("the first: a:3 (held out) and a:3 (training)")
    assert review(train, heldout[:1]) == []
