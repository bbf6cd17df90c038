"""Packing: each row once, no batch above the budget, and no target across rows."""

from __future__ import annotations

import time
from array import array

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.errors import DataError
from tunesmith_torch.data.packing import Example, collate, pack, pad_to_multiple, padded_batches

LENGTHS = st.lists(st.integers(1, 50), max_size=60)


@given(LENGTHS, st.integers(50, 200))
def test_each_row_is_in_one_batch_and_no_batch_exceeds_the_budget(
    lengths: list[int], budget: int
) -> None:
    bins = pack(lengths, budget)
    assert sorted(row for rows in bins for row in rows) == list(range(len(lengths)))
    assert all(rows and sum(lengths[row] for row in rows) <= budget for rows in bins)
    assert bins == pack(np.array(lengths, dtype=np.int32), budget)
    batches = padded_batches(lengths, budget)
    assert [row for rows in batches for row in rows] == list(range(len(lengths)))
    assert all(len(rows) * max(lengths[row] for row in rows) <= budget for rows in batches)


@given(LENGTHS, st.integers(50, 200))
def test_packing_is_best_fit_decreasing(lengths: list[int], budget: int) -> None:
    """Compare with a direct implementation of the definition, in quadratic time."""
    rooms: list[int] = []
    for size in sorted(lengths, reverse=True):
        sufficient = [room for room in rooms if room >= size]
        if sufficient:
            rooms[rooms.index(min(sufficient))] -= size
        else:
            rooms.append(budget - size)
    bins = pack(lengths, budget)
    assert sorted(budget - sum(lengths[row] for row in rows) for rows in bins) == sorted(rooms)


def log_normal(count: int) -> np.ndarray:
    lengths = np.random.default_rng(0).lognormal(np.log(180), 0.7, count)
    return np.clip(lengths, 24, 512).astype(int)


@pytest.mark.parametrize(
    ("count", "budget", "min_density"), [(300, 1024, 0.9), (20_000, 2048, 0.99)]
)
def test_packing_fills_micro_batches(count: int, budget: int, min_density: float) -> None:
    lengths = log_normal(count)
    assert lengths.sum() / (len(pack(lengths, budget)) * budget) >= min_density


def test_packing_a_hundred_thousand_rows_takes_less_than_a_second() -> None:
    lengths = log_normal(100_000)
    start = time.process_time()
    pack(lengths, 8192)
    assert time.process_time() - start < 1.0  # about 0.15 here; a quadratic search takes minutes


@pytest.mark.parametrize("distribute", [pack, padded_batches])
@pytest.mark.parametrize("length", [0, 101])
def test_a_row_that_does_not_fit_is_an_error_with_its_index(distribute, length: int) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(
        DataError, match=f"row 2: has {length} tokens, but a micro-batch holds 1 to 100"
    ):
        distribute([100, 1, length], 100)


ROW = st.lists(st.tuples(st.integers(3, 99), st.booleans()), min_size=1, max_size=12)


@settings(max_examples=60)
@given(st.lists(ROW, min_size=1, max_size=6), st.booleans(), st.booleans(), st.randoms())
def test_targets_are_the_next_tokens_of_the_same_row(rows, packed, weighted, random) -> None:  # type: ignore[no-untyped-def]
    """Packed or padded, contexts, targets and weights are those of the single rows."""
    weights = [[random.random() for _ in row] for row in rows]
    examples = [
        Example(array("i", [t for t, _ in row]), [m for _, m in row], w if weighted else None)
        for row, w in zip(rows, weights, strict=True)
    ]
    order = random.sample(range(len(rows)), len(rows))
    batch = collate(examples, order, packed=packed)
    ids, positions = batch.ids_BT.flatten(), batch.positions_BT.flatten()
    trained = []
    scale = torch.ones(len(batch.trained_N)) if batch.weights_N is None else batch.weights_N
    for position, target, weight in zip(
        batch.trained_N.tolist(), batch.targets_N, scale, strict=True
    ):
        context = ids[position - positions[position] : position + 1].tolist()
        trained.append((context, target.item(), weight.item()))
    expected = [
        ([t for t, _ in rows[r][:i]], rows[r][i][0], np.float32(weights[r][i]) if weighted else 1.0)
        for r in order
        for i in range(1, len(rows[r]))
        if rows[r][i][1]
    ]
    assert trained == expected
    assert batch.tokens == sum(map(len, rows))
    assert batch.longest == max(map(len, rows))
    assert batch.rows == tuple(order)


def test_layout_of_packed_and_padded_micro_batches() -> None:
    examples = [
        Example((5, 6, 7), (True, True, True)),
        Example(np.array([8, 9], dtype=np.int32), np.array([False, True])),
    ]
    packed = collate(examples, [0, 1])
    assert packed.ids_BT.tolist() == [[5, 6, 7, 8, 9]]
    assert packed.positions_BT.tolist() == [[0, 1, 2, 0, 1]]
    assert packed.boundaries is not None
    assert packed.boundaries.dtype == torch.int32
    assert packed.boundaries.tolist() == [0, 3, 5]
    assert packed.trained_N.tolist() == [0, 1, 3]  # not 2: its next token is in another row
    assert packed.targets_N.tolist() == [6, 7, 9]
    assert packed.mask_BT is None
    padded = collate(examples, [1, 0], packed=False)
    assert padded.ids_BT.tolist() == [[8, 9, 0], [5, 6, 7]]
    assert padded.mask_BT is not None
    assert padded.mask_BT.tolist() == [[1, 1, 0], [1, 1, 1]]
    assert padded.trained_N.tolist() == [0, 3, 4]
    assert padded.boundaries is None
    assert padded.to("cpu").rows == (1, 0)


def test_parts_of_different_lengths_are_refused() -> None:
    with pytest.raises(DataError, match="row 0"):
        collate([Example((5, 6), (True,))], [0])
    with pytest.raises(DataError, match="row 0"):
        collate([Example((5, 6), (True, True), (1.0,))], [0])


def test_a_row_without_trained_tokens_is_no_error() -> None:
    batch = collate([Example((5, 6), (True, False))], [0])
    assert batch.trained_N.tolist() == batch.targets_N.tolist() == []


def test_pad_to_multiple_adds_only_an_untrained_row() -> None:
    examples = [Example(np.arange(3, 3 + n), np.arange(n) > 1) for n in (9, 4)]
    batch = collate(examples, [0, 1], packed=True)
    aligned = pad_to_multiple(batch, 8)
    assert aligned.ids_BT.shape == aligned.positions_BT.shape == (1, 16)
    assert aligned.boundaries is not None and aligned.boundaries.tolist() == [0, 9, 13, 16]
    assert aligned.positions_BT[0, 13:].tolist() == [0, 1, 2]
    assert torch.equal(aligned.ids_BT[:, :13], batch.ids_BT)
    assert (aligned.tokens, aligned.longest, aligned.rows) == (13, 9, (0, 1))
    for name in ("trained_N", "targets_N"):
        assert torch.equal(getattr(aligned, name), getattr(batch, name))
    assert pad_to_multiple(aligned, 8) is aligned
    padded = collate(examples, [0, 1], packed=False)
    assert pad_to_multiple(padded, 8) is padded
