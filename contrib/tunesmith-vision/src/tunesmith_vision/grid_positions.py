"""Positions in three dimensions, as Qwen2-VL and Qwen2.5-VL give them to images.

All three positions of a text token are the same number. The tokens of an image share the first one,
and the other two are their row and column. The text after it goes on behind the larger side of its
grid, so an image of h x w tokens moves the positions forward by max(h, w) only::

    tokens        a  b  |  image, 2 rows x 3 columns  |  c  d
    as packed     0  1  |  2   3   4   5   6   7      |  8  9
    time          0  1  |  2   2   2   2   2   2      |  5  6
    row           0  1  |  2   2   2   3   3   3      |  5  6
    column        0  1  |  2   3   4   2   3   4      |  5  6

The ids of a row determine these positions, so packed and padded rows need no further input. With a
cache of keys and values, the distance between both counts is kept for each cache.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_vision.features import FeatureTable
from tunesmith_vision.images import Image

__all__ = ["GridPositions"]


class GridPositions(nn.Module):
    """Rotary factors for positions in three dimensions, in place of those of a decoder."""

    def __init__(
        self,
        decoder: Any,
        table: FeatureTable,
        sections: Sequence[int],
        grid: Callable[[Image], tuple[int, int]],
    ) -> None:
        """Replace the decoder's rotary embedding.

        ``sections`` are the numbers of frequencies for each dimension. ``grid`` returns the rows
        and columns of an image's tokens.
        """
        super().__init__()
        self.rotary, self.table, self.grid = decoder.rotary_emb, table, grid
        self.axis_D = torch.arange(3).repeat_interleave(torch.tensor(sections)).repeat(2)
        self._positions_3BT = torch.empty(0)
        self._seen: WeakKeyDictionary[Any, tuple[int, Tensor]] = WeakKeyDictionary()
        decoder.rotary_emb = self
        decoder.register_forward_pre_hook(self._read_ids, with_kwargs=True)

    def forward(self, x: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Return cosines and sines, [B, T, D]; each frequency belongs to one dimension."""
        positions_3BT = self._positions_3BT.to(x.device)
        axis_1BTD = self.axis_D.to(x.device).expand(1, *positions_3BT.shape[1:], -1)
        cos, sin = (
            factors.unflatten(0, (3, -1)).gather(0, axis_1BTD)[0]
            for factors in self.rotary(x, positions_3BT.flatten(0, 1))
        )
        return cos, sin

    def _read_ids(self, decoder: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        """Compute the positions of a pass from its token ids."""
        ids_BT = kwargs["input_ids"].cpu()
        cache = kwargs.get("cache", kwargs.get("past_key_values"))
        positions_BT = kwargs.get("position_ids")
        if positions_BT is None:
            past = 0 if cache is None else cache.get_seq_length()
            positions_BT = torch.arange(past, past + ids_BT.shape[1])
        positions_BT = positions_BT.cpu().expand(*ids_BT.shape)
        lag_B = torch.zeros(len(ids_BT), dtype=torch.long)
        if positions_BT[:, 0].any():
            length, lag_B = self._seen.get(cache, (-1, lag_B)) if cache is not None else (-1, lag_B)
            if len(lag_B) != len(ids_BT) or bool((positions_BT[:, 0] != length).any()):
                raise _problem()
        self._positions_3BT, lag_B = self.compute(ids_BT, positions_BT, lag_B)
        if cache is not None:
            self._seen[cache] = int(positions_BT[0, -1]) + 1, lag_B

    def compute(self, ids_BT: Tensor, positions_BT: Tensor, lag_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the positions in three dimensions, and how far they lag behind at the end.

        ``positions_BT`` count all tokens from 0 at the start of each row. Several rows may be
        packed into one. ``lag_B`` is the lag before the first token.

        Raises:
            EnvironmentProblem: a row does not start at 0, so its earlier images are not known.
        """
        steps_BT = positions_BT.diff(dim=1)
        if not bool(((steps_BT == 1) | (positions_BT[:, 1:] == 0)).all()):
            raise _problem()
        is_image_BT = ids_BT >= self.table.vocabulary
        numbers_N, places_N = self.table.locate(ids_BT[is_image_BT])
        used, order_N = numbers_N.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        grids = torch.tensor([self.grid(self.table.image(n)) for n in used.tolist()])
        heights_N, widths_N = grids.long().view(-1, 2)[order_N].unbind(1)
        # The text after an image starts behind its larger side.
        surplus_N = heights_N * widths_N - torch.maximum(heights_N, widths_N)
        is_last_N = places_N == heights_N * widths_N - 1
        surplus_BT = torch.zeros_like(positions_BT)
        surplus_BT[is_image_BT] = surplus_N * is_last_N
        before_BT = lag_B[:, None] + surplus_BT.cumsum(1) - surplus_BT
        # Images of earlier rows do not count: the lag at the start of a row is 0.
        is_start_BT = positions_BT == 0
        start_BT = torch.where(is_start_BT, torch.arange(ids_BT.shape[1]), -1).cummax(1).values
        at_start_BT = before_BT.gather(1, start_BT.clamp(min=0)).masked_fill(start_BT < 0, 0)
        lag_BT = before_BT - at_start_BT
        positions_3BT = (positions_BT - lag_BT).expand(3, -1, -1).clone()
        first_N = positions_3BT[0][is_image_BT] - places_N
        offsets = torch.zeros_like(places_N), places_N // widths_N, places_N % widths_N
        for axis, offset_N in enumerate(offsets):
            positions_3BT[axis][is_image_BT] = first_N + offset_N
        return positions_3BT, lag_BT[:, -1] + surplus_BT[:, -1]


def _problem() -> EnvironmentProblem:
    return EnvironmentProblem(
        "the positions of images need rows from their start",
        hint="compute complete rows, without a shared prefix",
    )
