"""Folds of training rows: they tear no cluster apart, and depend on the seed alone."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from tunesmith.contracts import SplitRequest
from tunesmith.records import Completion
from tunesmith_data.splits import split_records
from tunesmith_data.splits.folds import FOLDS, MAX_FOLD_ROWS, make_folds


@given(st.lists(st.integers(0, 12), max_size=60), st.integers(0, 5))
def test_each_row_is_in_one_fold_with_its_cluster(clusters: list[int], seed: int) -> None:
    rows = range(1, len(clusters), 2)
    folds = make_folds(rows, clusters, seed)
    assert folds == make_folds(rows, clusters, seed)
    names = {clusters[row] for row in rows}
    if len(names) < 2:
        assert folds == []
        return
    assert sorted(row for fold in folds for row in fold) == [*rows]
    assert len(folds) == min(FOLDS, len(names)) and all(folds)
    assert sum(len({clusters[row] for row in fold}) for fold in folds) == len(names)


def test_folds_do_not_depend_on_the_order_of_rows() -> None:
    records = [
        Completion(source=f"r:{n}", prompt=f"{n} {n * 37 % 101} {n // 2}", completion=str(n))
        for n in range(60)
    ]
    found = set()
    for order in (records, records[::-1], records[30:] + records[:30]):
        request = SplitRequest(
            records=order,
            seed=1,
            test=True,
            test_size=None,
            validation=True,
            needs_validation=False,
        )
        folds = split_records(iter(order), request).folds
        found.add(tuple(frozenset(order[row].source for row in fold) for fold in folds))
    assert len(found) == 1


def test_folds_of_single_rows_have_similar_sizes_and_depend_on_the_seed() -> None:
    folds = make_folds(range(23), range(23), 1)
    assert sorted(map(len, folds)) == [4, 4, 5, 5, 5]
    assert folds != make_folds(range(23), range(23), 2)
    assert make_folds(range(MAX_FOLD_ROWS + 1), range(MAX_FOLD_ROWS + 1), 1) == []


def split(records: Sequence[Completion], **request: bool) -> Sequence[Sequence[int]]:
    fields = {"test": True, "validation": True, **request}
    found = split_records(
        records,
        SplitRequest(records=records, seed=1, test_size=None, needs_validation=False, **fields),
    )
    train = sorted(found.train)
    assert not found.folds or sorted(row for fold in found.folds for row in fold) == train
    return found.folds


WORDS = [
    "amber",
    "birch",
    "cedar",
    "delta",
    "ember",
    "flint",
    "grove",
    "hazel",
    "ivory",
    "jade",
    "kelp",
    "lotus",
    "maple",
]


def test_few_rows_are_split_into_folds_with_their_duplicates_and_groups() -> None:
    rows = [
        Completion(
            source=f"r:{n}",
            prompt=f"{WORDS[n // 4]} {WORDS[n // 4 - 5]} {n}",
            completion="x",
            group=None if n % 4 else f"g{n // 8}",
        )
        for n in range(40)
    ]
    for test, count in ((True, 4), (False, 5)):
        folds = split(rows, test=test)
        assert len(folds) == count
        # Four rows differ by their number alone, and the first ones of two such fours have a group.
        assert all(len({row // 8 for row in fold}) == 1 and len(fold) == 8 for fold in folds)
    assert split(rows, validation=False) == [], "there are validation rows from elsewhere"
