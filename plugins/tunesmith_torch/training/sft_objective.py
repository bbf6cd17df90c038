"""The next-token objective: make the answers in the data more likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from tunesmith_torch.data.packing import Example, MicroBatch, aligned, collate, pack, unpacked
from tunesmith_torch.kernels.tree_attention import Branches
from tunesmith_torch.losses.selected_positions import head_of, trained_hidden
from tunesmith_torch.models.adapters import Adapted
from tunesmith_torch.prefix.common_prefix import collate_branching, shared_opening
from tunesmith_torch.training.loop import Counts

Layout = tuple[MicroBatch, Branches | None]
"""A micro-batch, and how its rows branch off a shared opening."""


class Supervised:
    """Negative log-likelihood of the trained tokens, summed; a batch divides it by their number."""

    def __init__(self, adapted: Adapted, examples: Sequence[Example], *, packing: bool) -> None:
        self._model = adapted.model
        self._device = adapted.base.model.device
        self._examples = examples
        self._packing = packing
        self._lengths = np.array([len(example.ids) for example in examples])
        # A row's first token follows nothing, so it is never guessed.
        self._trained = np.array([int(np.sum(e.trained)) - bool(e.trained[0]) for e in examples])
        with adapted.arithmetic():
            self.opening = shared_opening(examples, adapted.model) if packing else 0

    def __len__(self) -> int:
        return len(self._examples)

    def counts(self, rows: Sequence[int]) -> Counts:
        """Tokens of the rows; the loss is divided by those that are trained."""
        trained = int(self._trained[rows].sum())
        tokens = int(self._lengths[rows].sum())
        return Counts(tokens=tokens, trained_tokens=trained, units=trained)

    def micro_batches(self, rows: Sequence[int], budget: int) -> list[Layout]:
        """The rows packed end to end, or padded, at most ``budget`` tokens at a time."""
        if not rows:
            return []
        lengths = self._lengths[rows] - self.opening
        share = pack if self._packing else unpacked
        bins = share(lengths, max(budget - self.opening, int(lengths.max())))
        return [self._layout([rows[i] for i in members]) for members in bins]

    def loss(self, micro_batch: Layout) -> Tensor:
        """Nats, summed over the micro-batch's trained tokens."""
        batch, branches = micro_batch[0].to(self._device), micro_batch[1]
        also = {} if branches is None else {"branches": branches}
        hidden_ND = trained_hidden(self._model, batch, also=also)
        return head_of(self._model).loss(hidden_ND, batch)

    def _layout(self, rows: Sequence[int]) -> Layout:
        if self.opening:
            return collate_branching(self._examples, rows, self.opening)
        return aligned(collate(self._examples, rows, packed=self._packing)), None

    def figures(self) -> dict[str, float]:
        """Nothing beside the loss."""
        return {}
