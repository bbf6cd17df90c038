"""Splits never leak: no training record is a copy of a held-out one."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from splitting import split_records

from tunesmith.data.splits import (
    SplitIndices,
    normalize_text,
)

quick = settings(max_examples=80, deadline=None)
texts = st.lists(st.text(alphabet="aAbß é\n", max_size=4), min_size=2, max_size=40)
WORDS = [f"word{i}" for i in range(2_000)]


def sentence(rng: Random, words: int = 60) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def try_split(
    keys: list[str], holdout: float | int, seed: int, **labels: object
) -> SplitIndices | None:
    """The split, or None where everything is tied together."""
    try:
        return split_records(keys, holdout=holdout, seed=seed, **labels)  # type: ignore[arg-type]
    except ValueError as error:
        assert "all" in str(error)
        return None


# --- what a split promises ------------------------------------------------------------------


@given(texts, st.floats(0.01, 0.99), st.integers(0, 99), st.data())
@quick
def test_partition_and_ties_hold(
    keys: list[str], holdout: float, seed: int, data: st.DataObject
) -> None:
    label = st.lists(st.sampled_from([None, "p", "q", "r", "s"]), min_size=len(keys))
    groups = data.draw(label)[: len(keys)]
    strata = data.draw(label)[: len(keys)]
    result = try_split(keys, holdout, seed, groups=groups, strata=strata)
    if result is None:
        return
    assert sorted(result.train + result.heldout) == list(range(len(keys)))
    assert result.train and result.heldout
    assert list(result.train) == sorted(result.train)
    assert list(result.heldout) == sorted(result.heldout)
    for kind in ([normalize_text(k) for k in keys], groups):
        inside = {kind[i] for i in result.train} & {kind[i] for i in result.heldout}
        assert inside <= {None}


@given(texts, st.integers(0, 99), st.randoms(use_true_random=False))
@quick
def test_the_order_of_rows_does_not_matter(keys: list[str], seed: int, rng: Random) -> None:
    groups = [None if len(k) < 3 else k[:1] for k in keys]
    strata = [k[-1:] or None for k in keys]
    order = list(range(len(keys)))
    rng.shuffle(order)

    def heldout(rows: list[int]) -> Counter[str] | None:
        mine = [keys[i] for i in rows]
        labels = {"groups": [groups[i] for i in rows], "strata": [strata[i] for i in rows]}
        result = try_split(mine, 0.3, seed, **labels)
        return None if result is None else Counter(mine[i] for i in result.heldout)

    assert heldout(order) == heldout(list(range(len(keys))))


@pytest.mark.parametrize("count", [1, 7, 199])
def test_a_count_is_met_exactly(count: int) -> None:
    keys = [f"row {i}" for i in range(200)]
    strata = [str(i % 3) for i in range(200)]
    assert len(split_records(keys, holdout=count, seed=0).heldout) == count
    assert len(split_records(keys, holdout=count, seed=0, strata=strata).heldout) == count


def test_a_share_is_rounded_but_neither_side_is_empty() -> None:
    keys = [f"row {i}" for i in range(10)]
    for share, rows in ((0.01, 1), (0.2, 2), (0.26, 3), (0.99, 9)):
        assert len(split_records(keys, holdout=share, seed=0).heldout) == rows


def test_seeds_differ_and_repeat() -> None:
    keys = [f"row {i}" for i in range(100)]
    first = split_records(keys, holdout=0.3, seed=1)
    assert split_records(keys, holdout=0.3, seed=1) == first
    assert split_records(keys, holdout=0.3, seed=2) != first
    seen = Counter(
        i for seed in range(300) for i in split_records(keys, holdout=0.3, seed=seed).heldout
    )
    assert len(seen) == 100
    assert min(seen.values()) > 45 and max(seen.values()) < 135  # 90 expected, 5.7 sd each way


def test_adding_rows_moves_few_others() -> None:
    keys = [f"row {i}" for i in range(1_000)]
    before = set(split_records(keys, holdout=0.2, seed=3).heldout)
    after = set(
        split_records([*keys, *(f"new {i}" for i in range(50))], holdout=0.2, seed=3).heldout
    )
    moved = before ^ {i for i in after if i < 1_000}
    assert len(moved) <= 20


def test_adding_a_row_to_a_group_moves_nothing() -> None:
    keys = [f"row {i}" for i in range(300)]
    groups: list[str | None] = [f"patient {i // 3}" for i in range(300)]
    before = split_records(keys, holdout=90, seed=3, groups=groups).heldout
    group = groups[before[0]]
    after = split_records([*keys, "one more"], holdout=91, seed=3, groups=[*groups, group]).heldout
    assert list(after) == [*before, 300]


def test_groups_reach_the_size_as_nearly_as_they_can() -> None:
    keys = [f"row {i}" for i in range(60)]
    threes: list[str | None] = [str(i // 3) for i in range(60)]
    assert len(split_records(keys, holdout=10, seed=0, groups=threes).heldout) == 9
    assert len(split_records(keys, holdout=11, seed=0, groups=threes).heldout) == 12
    halves: list[str | None] = [str(i // 30) for i in range(60)]
    assert len(split_records(keys, holdout=5, seed=0, groups=halves).heldout) == 30
    assert len(split_records(keys, holdout=55, seed=0, groups=halves).heldout) == 30


def test_a_chain_of_ties_stays_together() -> None:
    keys = ["a", "A ", "b", "c"] + [f"other {i}" for i in range(20)]
    groups = ["g", "h", "h", "g"] + [None] * 20
    for seed in range(30):
        heldout = set(split_records(keys, holdout=0.4, seed=seed, groups=groups).heldout)
        assert len(heldout & {0, 1, 2, 3}) in (0, 4)


@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=6), st.floats(0.05, 0.95), st.integers(0, 9)
)
@quick
def test_labels_are_within_one_row_of_their_share(
    sizes: list[int], holdout: float, seed: int
) -> None:
    strata: list[str | None] = [str(k) for k, size in enumerate(sizes) for _ in range(size)]
    keys = [f"row {i}" for i in range(len(strata))]
    if len(keys) < 2:
        return
    heldout = split_records(keys, holdout=holdout, seed=seed, strata=strata).heldout
    share = len(heldout) / len(keys)
    found = Counter(strata[i] for i in heldout)
    for k, size in enumerate(sizes):
        assert abs(found[str(k)] - share * size) < 1 + 1e-9


def test_rare_labels_are_in_both_parts() -> None:
    strata: list[str | None] = ["common"] * 95 + ["rare"] * 3 + ["single"] + [None]
    keys = [f"row {i}" for i in range(100)]
    for seed in range(20):
        result = split_records(keys, holdout=0.1, seed=seed, strata=strata)
        for side in (result.train, result.heldout):
            assert {"common", "rare"} <= {strata[i] for i in side}
        assert 98 in result.train and 99 in result.train  # the only row of its label


def test_errors_for_data_that_cannot_be_split() -> None:
    two = ["a", "b"]
    cases: list[tuple[str, Callable[[], object]]] = [
        ("at least 2 records, got 1", lambda: split_records(["a"], holdout=0.5, seed=0)),
        ("at least 2 records, got 0", lambda: split_records([], holdout=0.5, seed=0)),
        ("leaves nothing to train on, got 2 of 2", lambda: split_records(two, holdout=2, seed=0)),
        ("must be a share below 1", lambda: split_records(two, holdout=1.0, seed=0)),
        ("must be a share", lambda: split_records(two, holdout=0, seed=0)),
        ("must be a share", lambda: split_records(two, holdout=-0.1, seed=0)),
        ("must be a share", lambda: split_records(two, holdout=math.nan, seed=0)),
        ("must be a share", lambda: split_records(two, holdout=True, seed=0)),
        (
            "all 2 records are duplicates of each other",
            lambda: split_records(["a", " A"], holdout=0.5, seed=0),
        ),
        ("in one group", lambda: split_records(two, holdout=0.5, seed=0, groups=["g", "g"])),
        (
            "groups: must have one entry",
            lambda: split_records(two, holdout=0.5, seed=0, groups=["g"]),
        ),
        (
            "strata: must have one entry",
            lambda: split_records(two, holdout=0.5, seed=0, strata=["g"]),
        ),
    ]
    for message, call in cases:
        with pytest.raises(ValueError, match=message):
            call()


def test_surrogates_and_empty_keys_split() -> None:
    result = split_records(["", "\ud83d", "x", "\udc00 y"], holdout=1, seed=0)
    assert len(result.heldout) == 1


# --- what counts as the same ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Hello  World", " hello\tworld\n"),
        ("ﬁne", "FINE"),
        ("Straße", "STRASSE"),
        ("Ｆｕｌｌ", "full"),
        ("e\u0301", "É"),
        ("a\u00a0b", "a b"),
    ],
)
def test_normalize_text_makes_variants_equal(one: str, other: str) -> None:
    assert normalize_text(one) == normalize_text(other)


def test_normalize_text_keeps_differences() -> None:
    assert len({normalize_text(t) for t in ("a b", "ab", "a.b", "á", "а", "")}) == 6


@given(st.text())
@settings(max_examples=300, deadline=None)
def test_normalize_text_is_idempotent(text: str) -> None:
    assert normalize_text(normalize_text(text)) == normalize_text(text)


@pytest.mark.parametrize("kind", ["prose", "one template"])
def test_twenty_thousand_rows_take_seconds(kind: str) -> None:
    rng = Random(8)
    if kind == "prose":
        rows = [sentence(rng, 40) for _ in range(20_000)]
    else:
        rows = [f"{' '.join(WORDS[:15])} {i} {' '.join(WORDS[15:30])}" for i in range(20_000)]
    started = time.process_time()
    split_records(rows, holdout=0.1, seed=0)
    assert time.process_time() - started < 2
