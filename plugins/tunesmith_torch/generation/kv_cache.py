"""The cache of a decoding batch that changes while it runs.

Shapes: L layers, B rows, K heads of keys and values, S slots, D head width.

Every row's last token lies in the same slot, so that a step writes one slice a layer, and rows come
and go between steps. A ``Cache`` of one's own is what transformers offers to everybody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

from tunesmith_torch.generation.prefix_attention import Prefix

GROWTH = 64
"""Slots by which a full cache grows, at least."""


class Slots(Cache):  # type: ignore[misc]  # transformers comes without types
    """The cache of the rows that are being decoded.

    All rows end at slot ``end``; a row of ``n`` tokens begins at slot ``end - n``, and what lies
    before belongs to nobody and is masked. One tensor holds the keys of all layers, transposed as
    the product with one query likes them, and one the values, so that moving a row is one copy.
    """

    def __init__(self, prefix: Prefix | None) -> None:
        super().__init__(layers=[])
        self.shared = 0 if prefix is None else prefix.length
        self.end = 0
        self._first: list[int] = []
        self._keys_LBKDS = self._values_LBKSD = torch.empty(0, 0, 0, 0, 0)
        self._views: list[tuple[Tensor, Tensor]] = []
        self._first_B1 = torch.empty(0, 1)
        self._bias_B11S: Tensor | None = None
        self._window = 0, 0

    @property
    def rows(self) -> int:
        """How many rows are being decoded."""
        return len(self._first)

    @property
    def start(self) -> int:
        """The first slot that any row uses."""
        return min(self._first, default=self.end)

    # What the model calls.

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Write one token a row and return all, shapes BKSD."""
        keys_BKDS, values_BKSD = self._views[layer_idx]
        keys_BKDS.select(3, self.end).copy_(key_states.squeeze(2))
        values_BKSD.select(2, self.end).copy_(value_states.squeeze(2))
        start, width = self._window
        return keys_BKDS.narrow(3, start, width).transpose(2, 3), values_BKSD.narrow(
            2, start, width
        )

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return self.shared + self.end - self.start

    # What the decoding loop calls.

    def inputs(self) -> dict[str, Any]:
        """Make room for one token a row; positions and mask for the model's next call."""
        if self.end == self._keys_LBKDS.shape[-1]:
            self._rebuild(self.rows, self.end - self.start)
            self._changed()
        start = self.start
        self._window = start, self.end + 1 - start
        bias = self._bias_B11S
        return {
            "position_ids": self.shared + self.end - self._first_B1,
            "attention_mask": None if bias is None else bias[..., : self._window[1]],
            "use_cache": True,
        }

    def admit(self, cache: DynamicCache, source: Sequence[int], lengths: Sequence[int]) -> None:
        """Add rows: number ``i`` is row ``source[i]`` of ``cache`` and ends with it."""
        tokens = cache.layers[0].keys.shape[2]
        rows = self.rows + len(source)
        if not self._first:
            self.end = 0
        if rows > self._keys_LBKDS.shape[1] or tokens > self.end:
            self._rebuild(rows, max(self.end - self.start, tokens), like=cache)
        index = torch.tensor(source, device=cache.layers[0].keys.device)
        at, span = slice(self.rows, rows), slice(self.end - tokens, self.end)
        for layer, new in enumerate(cache.layers):
            self._keys_LBKDS[layer, at, :, :, span] = new.keys[index].transpose(2, 3)
            self._values_LBKSD[layer, at, :, span] = new.values[index]
        self._first += [self.end - length for length in lengths]
        self._changed()

    def drop(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Remove rows; the last ones move into the holes.

        Returns:
            The rows that moved: to where, from where. What remains is the first ``rows``.
        """
        gone, left = set(rows), self.rows - len(rows)
        holes = [row for row in rows if row < left]
        movers = [row for row in range(left, self.rows) if row not in gone]
        if movers:
            span = slice(self.start, self.end)
            self._keys_LBKDS[:, holes, ..., span] = self._keys_LBKDS[:, movers, ..., span]
            self._values_LBKSD[:, holes, :, span] = self._values_LBKSD[:, movers, :, span]
        for hole, mover in zip(holes, movers, strict=True):
            self._first[hole] = self._first[mover]
        del self._first[left:]
        self._changed()
        return holes, movers

    def _rebuild(self, rows: int, width: int, like: DynamicCache | None = None) -> None:
        """Move to new tensors that end after ``width`` used slots and have room to grow."""
        room = width + max(GROWTH, width // 4)
        old_keys, old_values = self._keys_LBKDS, self._values_LBKSD
        if like is None or self.rows:
            L, B, K, D, _ = old_keys.shape
            new, wide = old_keys, old_values.shape[-1]
        else:
            new = like.layers[0].keys
            (_, K, _, D), L, B = new.shape, len(like.layers), 0
            wide = like.layers[0].values.shape[-1]
        # Zeros, because an unused slot is multiplied by a weight of zero, and must be a number.
        self._keys_LBKDS = new.new_zeros(L, max(rows, B), K, D, room)
        self._values_LBKSD = new.new_zeros(L, max(rows, B), K, room, wide)
        live, used = self.rows, slice(self.start, self.end)
        span = slice(width - (self.end - self.start), width)
        if live:
            self._keys_LBKDS[:, :live, ..., span] = old_keys[:, :live, ..., used]
            self._values_LBKSD[:, :live, :, span] = old_values[:, :live, :, used]
        self._first = [first + width - self.end for first in self._first]
        self.end = width

    def _changed(self) -> None:
        """Rows have come, gone or moved: prepare what every step needs."""
        keys, values, rows = self._keys_LBKDS, self._values_LBKSD, self.rows
        views = keys[:, :rows].unbind(0), values[:, :rows].unbind(0)
        self._views = list(zip(*views, strict=True))
        self._first_B1 = torch.tensor(self._first, device=keys.device).view(-1, 1)
        self._bias_B11S = None
        if rows and max(self._first) > self.start:
            column_S = torch.arange(self.start, keys.shape[-1], device=keys.device)
            bias_BS = keys.new_zeros(rows, len(column_S))
            bias_BS.masked_fill_(column_S < self._first_B1, float("-inf"))
            self._bias_B11S = bias_BS[:, None, None, :]
