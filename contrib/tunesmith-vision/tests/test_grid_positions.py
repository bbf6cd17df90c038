"""Positions in three dimensions, compared with those written down by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith_vision.grid_positions import GridPositions

VOCABULARY = 100
IMAGE = [*range(VOCABULARY, VOCABULARY + 6)]
"""The ids of an image of 2 rows and 3 columns."""
ROW = [1, 2, *IMAGE, 3, 4]
TIME = [0, 1, 2, 2, 2, 2, 2, 2, 5, 6]
ROWS = [0, 1, 2, 2, 2, 3, 3, 3, 5, 6]
COLUMNS = [0, 1, 2, 3, 4, 2, 3, 4, 5, 6]


class _Decoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rotary_emb = nn.Identity()


def make_positions() -> GridPositions:
    """Build the positions of a decoder that knows one image."""

    def locate(ids_N: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(ids_N), ids_N - VOCABULARY

    table: Any = SimpleNamespace(vocabulary=VOCABULARY, image=str, locate=locate)
    return GridPositions(_Decoder(), table, [1, 1, 1], lambda image: (2, 3))


def compute(ids: list[int], positions: list[int], lag: int = 0) -> tuple[Tensor, int]:
    """Return the three positions of each token, and the lag at the end."""
    found_3BT, lag_B = make_positions().compute(
        torch.tensor([ids]), torch.tensor([positions]), torch.tensor([lag])
    )
    return found_3BT[:, 0], int(lag_B)


def test_positions_of_a_row_are_those_of_the_table() -> None:
    found, lag = compute(ROW, [*range(10)])
    assert found.tolist() == [TIME, ROWS, COLUMNS]
    assert lag == 3


def test_a_packed_row_starts_again_at_zero() -> None:
    found, _ = compute(ROW * 2, [*range(10)] * 2)
    assert found.tolist() == [TIME * 2, ROWS * 2, COLUMNS * 2]


def test_a_continuation_has_the_positions_of_the_whole_row() -> None:
    whole, end = compute([*ROW, 5, *IMAGE, 6], [*range(18)])
    _, lag = compute(ROW, [*range(10)])
    rest, last = compute([5, *IMAGE, 6], [*range(10, 18)], lag)
    assert rest.tolist() == whole[:, 10:].tolist()
    assert last == end == 6
