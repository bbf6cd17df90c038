"""Stores of tokenized examples: in memory and mapped from files they return what went in."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunesmith_torch.data import example_store
from tunesmith_torch.data.example_store import ExampleStore, ExampleStoreBuilder
from tunesmith_torch.data.packing import Example, collate

ROWS = [
    (0, Example([5, 6, 7], [False, True, True])),
    (0, Example([8], [True])),
    (3, Example([9, 1], [False, True])),
]
WEIGHTED = (4, Example([2, 3], [True, True], [0.1, 2.5]))


def stores(folder: Path, rows: list[tuple[int, Example]]) -> list[ExampleStore]:
    (folder / "grown").mkdir()
    (folder / "saved").mkdir()
    in_memory, in_files = ExampleStoreBuilder(), ExampleStoreBuilder(folder / "grown")
    for record, example in rows:
        in_memory.append(record, example)
        in_files.extend(record, [example])
    store = in_memory.build()
    store.save(folder / "saved")
    return [store, in_files.build(), ExampleStore.open(folder / "saved")]


@pytest.mark.parametrize("chunk", [1, 2, 1000])
@pytest.mark.parametrize("weighted", [False, True])
def test_examples_come_back_as_they_went_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int, weighted: bool
) -> None:
    monkeypatch.setattr(example_store, "CHUNK", chunk)
    rows = [*ROWS, WEIGHTED] if weighted else ROWS
    for store in stores(tmp_path, rows):
        assert store.records.tolist() == [record for record, _ in rows]
        assert store.tokens == sum(len(example) for _, example in rows)
        assert store.trained_tokens == sum(sum(example.trained) for _, example in rows)
        for mine, (_, given) in zip(store, rows, strict=True):
            assert list(mine.ids) == list(given.ids)
            assert list(mine.trained) == list(given.trained)
            if given.weights is None:
                assert mine.weights is None
            else:
                assert mine.weights is not None
                np.testing.assert_array_equal(mine.weights, np.float32(given.weights))


def test_micro_batches_are_those_of_a_list(tmp_path: Path) -> None:
    rows = [*ROWS, WEIGHTED]
    expected = collate([example for _, example in rows], [3, 0, 2])
    for store in stores(tmp_path, rows):
        batch = collate(store, [3, 0, 2])
        for name in ("ids_BT", "trained_N", "targets_N", "weights_N"):
            assert getattr(batch, name).tolist() == getattr(expected, name).tolist()


def test_indices_are_those_of_a_sequence(tmp_path: Path) -> None:
    for store in stores(tmp_path, ROWS):
        assert list(store[-1].ids) == [9, 1]
        assert [list(example.ids) for example in store[1:]] == [[8], [9, 1]]
        with pytest.raises(IndexError):
            store[3]


def test_a_store_may_be_empty(tmp_path: Path) -> None:
    for store in stores(tmp_path, []):
        assert len(store) == 0 and store.tokens == 0 and not list(store)


def test_mapped_examples_outlive_their_files(tmp_path: Path) -> None:
    *_, store = stores(tmp_path, ROWS)
    for file in (tmp_path / "saved").iterdir():
        file.unlink()
    assert [list(example.ids) for example in store] == [[5, 6, 7], [8], [9, 1]]
