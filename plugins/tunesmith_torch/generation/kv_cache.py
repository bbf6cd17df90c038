"""A key-value cache whose rows come and go while a batch is being decoded.

Shapes: L layers, B rows, T new tokens, K heads of keys and values, S slots, D head width.

The rows are aligned at their *end*, so a decoding step writes one slice per layer for rows of any
length. Three rows of 6, 3 and 5 tokens, before the step that writes slot 8::

    slot     0  1  2  3  4  5  6  7  8  9 ...
    row 0    .  .  a  a  a  a  a  a            first slot 2
    row 1    .  .  .  .  .  b  b  b            first slot 5
    row 2    .  .  .  c  c  c  c  c            first slot 3
                   |                 |
                 start              end

A bias of -inf masks the slots before a row's first one. No row uses the columns before ``start``,
so the returned keys and values do not contain them. A new row is copied to end at ``end``. When a
row is removed, the last row moves into its place. When all slots are used, the tensors are
reallocated without the unused columns.

The initial tokens that all prompts share are not in this cache: see
:class:`tunesmith_torch.generation.prefix_attention.Prefix`. ``Cache`` is transformers' public base
class for such implementations.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import Cache, DynamicCache

from tunesmith_torch.generation.prefix_attention import Prefix

MIN_GROWTH = 64
"""Minimum number of slots added to a full cache."""


class DecodingCache(Cache):  # type: ignore[misc]  # transformers comes without types
    """The keys and values of the rows that are being decoded.

    One tensor holds the keys of all layers, another the values. So moving a row takes one copy per
    tensor.
    """

    def __init__(self, prefix: Prefix | None) -> None:
        super().__init__(layers=[])
        self.prefix_length = 0 if prefix is None else prefix.length
        self.end = 0
        self._first_slots: list[int] = []
        self._keys_LBKSD = self._values_LBKSD = torch.empty(0, 0, 0, 0, 0)
        self._views: list[tuple[Tensor, Tensor]] = []
        self._first_slot_B1 = torch.empty(0, 1)
        self._bias_B11S: Tensor | None = None
        self._used_window = 0, 0
        self.ahead: deque[tuple[int, Tensor]] = deque()
        """Guesses of the only row, stored from slot ``end`` on, with the logits after them."""

    @property
    def num_rows(self) -> int:
        """Number of rows that are being decoded."""
        return len(self._first_slots)

    @property
    def start(self) -> int:
        """The first slot that any row uses."""
        return min(self._first_slots, default=self.end)

    # Called by the model.

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *_: Any, **__: Any
    ) -> tuple[Tensor, Tensor]:
        """Store the new tokens of each row and return all keys and values, shape BKSD."""
        keys_BKSD, values_BKSD = self._views[layer_idx]
        start, width = self._used_window
        new = slice(self.end, start + width)
        keys_BKSD[:, :, new], values_BKSD[:, :, new] = key_states, value_states
        return keys_BKSD.narrow(2, start, width), values_BKSD.narrow(2, start, width)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return the length of the longest row in tokens, including the common prefix."""
        return self.prefix_length + self.end - self.start

    # Called by the decoding loop.

    def next_inputs(self, tokens: int = 1) -> dict[str, Any]:
        """Make room for new tokens of each row; return the model's inputs other than them.

        Only a row that is alone may have several new tokens.
        """
        if self.end + tokens > self._keys_LBKSD.shape[3]:
            self._reallocate(self.num_rows, self.end - self.start)
            self._update_views()
        width = self.end + tokens - self.start
        self._used_window = self.start, width
        position_BT = self.prefix_length + self.end - self._first_slot_B1
        bias = None if self._bias_B11S is None else self._bias_B11S[..., :width]
        if tokens > 1:
            position_BT = position_BT + torch.arange(tokens, device=position_BT.device)
            future_TT = self._keys_LBKSD.new_full((tokens, tokens), float("-inf")).triu_(1)
            bias = functional.pad(future_TT, (width - tokens, 0))[None, None]
        return {"position_ids": position_BT, "attention_mask": bias, "use_cache": True}

    def add_rows(
        self, cache: DynamicCache, source_rows: Sequence[int], lengths: Sequence[int]
    ) -> None:
        """Add rows: new row ``i`` is a copy of row ``source_rows[i]`` of ``cache``.

        Rows of ``cache`` are padded on the left. ``lengths``: number of tokens in each new row; the
        padding before them is masked.
        """
        tokens = cache.layers[0].keys.shape[2]
        rows = self.num_rows + len(source_rows)
        if not self._first_slots:
            self.end = 0
        if rows > self._keys_LBKSD.shape[1] or tokens > self.end:
            self._reallocate(rows, max(self.end - self.start, tokens), source_cache=cache)
        index = torch.tensor(source_rows, device=cache.layers[0].keys.device)
        row_slice, span = slice(self.num_rows, rows), slice(self.end - tokens, self.end)
        for layer, new_layer in enumerate(cache.layers):
            self._keys_LBKSD[layer, row_slice, :, span] = new_layer.keys[index]
            self._values_LBKSD[layer, row_slice, :, span] = new_layer.values[index]
        self._first_slots += [self.end - length for length in lengths]
        self._update_views()

    def remove_rows(self, rows: Sequence[int]) -> tuple[list[int], list[int]]:
        """Remove rows; the last rows move into their places.

        Returns:
            The new and the old indices of the rows that moved. The first :attr:`num_rows` rows
            remain.
        """
        removed, num_left = set(rows), self.num_rows - len(rows)
        free_indices = [row for row in rows if row < num_left]
        moved_indices = [row for row in range(num_left, self.num_rows) if row not in removed]
        if moved_indices:
            span = slice(self.start, self.end)
            for table in (self._keys_LBKSD, self._values_LBKSD):
                table[:, free_indices, :, span] = table[:, moved_indices, :, span]
        for free, moved in zip(free_indices, moved_indices, strict=True):
            self._first_slots[free] = self._first_slots[moved]
        del self._first_slots[num_left:]
        self._update_views()
        return free_indices, moved_indices

    def _reallocate(self, rows: int, width: int, source_cache: DynamicCache | None = None) -> None:
        """Copy the cache to new tensors with ``width`` used slots and room to grow."""
        slots = width + max(MIN_GROWTH, width // 4)
        old_keys, old_values = self._keys_LBKSD, self._values_LBKSD
        if source_cache is None or self.num_rows:
            L, B, K, _, D = old_keys.shape
            example_keys, value_width = old_keys, old_values.shape[-1]
        else:
            example_keys = source_cache.layers[0].keys
            (_, K, _, D), L, B = example_keys.shape, len(source_cache.layers), 0
            value_width = source_cache.layers[0].values.shape[-1]
        # Zeros, not uninitialized memory: a masked slot has weight 0, but 0 times NaN is NaN.
        self._keys_LBKSD = example_keys.new_zeros(L, max(rows, B), K, slots, D)
        self._values_LBKSD = example_keys.new_zeros(L, max(rows, B), K, slots, value_width)
        used_rows, used_slots = self.num_rows, slice(self.start, self.end)
        span = slice(width - (self.end - self.start), width)
        if used_rows:
            self._keys_LBKSD[:, :used_rows, :, span] = old_keys[:, :used_rows, :, used_slots]
            self._values_LBKSD[:, :used_rows, :, span] = old_values[:, :used_rows, :, used_slots]
        self._first_slots = [first + width - self.end for first in self._first_slots]
        self.end = width

    def _update_views(self) -> None:
        """Recompute the views and the mask after rows were added, removed or moved."""
        self.ahead.clear()  # the guesses of a row that is no longer alone, or has moved
        keys, values, rows = self._keys_LBKSD, self._values_LBKSD, self.num_rows
        views = keys[:, :rows].unbind(0), values[:, :rows].unbind(0)
        self._views = list(zip(*views, strict=True))
        self._first_slot_B1 = torch.tensor(self._first_slots, device=keys.device).view(-1, 1)
        self._bias_B11S = None
        if rows and max(self._first_slots) > self.start:
            column_S = torch.arange(self.start, keys.shape[3], device=keys.device)
            bias_BS = keys.new_zeros(rows, len(column_S))
            bias_BS.masked_fill_(column_S < self._first_slot_B1, float("-inf"))
            self._bias_B11S = bias_BS[:, None, None, :]
