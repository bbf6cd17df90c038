"""The loss of each row: its mean is the loss that the training loop computes for a batch."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.records import Text
from tunesmith_torch.data.packing import Example, collate, pad_to_multiple
from tunesmith_torch.prefix.common_prefix import collate_with_prefix
from tunesmith_torch.training.row_losses import RowLosses, list_row_groups
from tunesmith_torch.training.supervised import _rows_of_targets

ROWS = [
    Example([5, 6, 1, 2, 3], [False, False, False, True, True]),
    Example([5, 6, 4], [False, False, True]),
    Example([5, 6, 1, 7, 8, 9], [False, False, True, False, True, True]),
]


def test_the_mean_weighs_rows_by_their_tokens() -> None:
    losses = RowLosses(step=3, losses=[1.0, 2.0, 0.0], weights=[1.0, 3.0, 0.0])
    assert losses.mean == pytest.approx(7 / 4)
    assert math.isnan(RowLosses(step=3, losses=[0.0], weights=[0.0]).mean)
    assert RowLosses(**losses.to_json()) == losses
    grouped = RowLosses(step=3, losses=[1.0], weights=[1.0], groups=["a"])
    assert RowLosses(**grouped.to_json()) == grouped and "groups" not in losses.to_json()


def test_the_groups_of_rows_are_those_of_their_records() -> None:
    """The first record is skipped, and the second one gives two rows."""
    records = [Text(source="", text="", group=group) for group in ("a", "b", None)]
    assert list_row_groups(records, [1, 1, 2]) == ["b", "b", None]
    assert list_row_groups(records, [2]) is None


@pytest.mark.parametrize("layout", ["packed", "padded", "prefix"])
def test_each_target_belongs_to_its_row(layout: str) -> None:
    order = [2, 0, 1]
    tree = None
    if layout == "prefix":
        batch, tree = collate_with_prefix(ROWS, order, 1)
    else:
        batch = pad_to_multiple(collate(ROWS, order, packed=layout == "packed"))
    rows = [batch.rows[row] for row in _rows_of_targets(batch, tree)]
    found = sorted(zip(rows, batch.targets_N.tolist(), strict=True))
    assert found == [(0, 2), (0, 3), (1, 4), (2, 1), (2, 8), (2, 9)]
    assert batch.trained_N.dtype == torch.int64
