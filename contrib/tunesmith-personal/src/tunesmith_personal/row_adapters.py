"""One model for all users: each row of a batch uses the adapter of its user.

Shapes: B rows, T tokens, I inputs and O outputs of a layer, R rank, P numbers of an adapter.

The requests of several users share the products with the base model's weights. Their adapters are
kept as vectors, so that the server does not copy the model's layers for each user.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import IntegrityError
from tunesmith_personal.segments import A, B, Layout, replace_layers
from tunesmith_personal.user_models import copy_with_adapter
from tunesmith_torch.generation.adapted_model import AdaptedModel
from tunesmith_torch.generation.text_model import TorchTextModel


class RowAdaptedLinear(nn.Module):
    """A frozen linear layer, with a low-rank update for each row of a batch."""

    def __init__(self, layer: nn.Module, scaling: float) -> None:
        super().__init__()
        self.layer, self.scaling = layer, scaling
        self.updates: tuple[Tensor, Tensor] | None = None
        """The matrices A [B, R, I] and B [B, O, R] of the rows, or of one adapter for all rows."""

    def forward(self, x_BTI: Tensor) -> Tensor:
        """Return the layer's outputs plus those of the rows' updates, in the layer's dtype."""
        out_BTO: Tensor = self.layer(x_BTI)
        if self.updates is None:
            return out_BTO
        a_BRI, b_BOR = self.updates
        update_BTO = (x_BTI.to(a_BRI.dtype) @ a_BRI.mT) @ b_BOR.mT
        return (out_BTO + update_BTO * self.scaling).to(out_BTO.dtype)


class RowAdaptedModel:
    """A copy of a model with LoRA adapters that lets each row of a batch use its own adapter."""

    def __init__(self, shared: TorchTextModel, layout: Layout, shared_P: Tensor) -> None:
        """``shared`` is the model with the shared adapter, whose other weights are not copied."""
        self.layout = layout
        self.text_model = copy_with_adapter(shared, layout, shared_P)
        self._device = shared.device
        self._layers = replace_layers(
            self.text_model.model,
            layout.paths,
            lambda adapted: RowAdaptedLinear(adapted.base_layer, layout.scaling),
        )
        self._used: tuple[RowVector, ...] = ()
        self._updates: list[tuple[Tensor, Tensor]] = []

    def adapt(self, vector_P: Tensor) -> AdaptedModel:
        """Return the model with a user's adapter.

        Raises:
            IntegrityError: the vector does not belong to this model.
        """
        if vector_P.shape != (sum(self.layout.sizes),):
            raise IntegrityError(
                "a user's adapter does not fit the shared adapter's modules",
                hint="restore the run folder from a backup",
            )
        return AdaptedModel(self.text_model, RowVector(self, vector_P.to(self._device)))

    @contextmanager
    def use(self, adapters: Sequence[RowVector]) -> Iterator[None]:
        """Let row ``n`` use the n-th adapter inside the block; a single one is for all rows."""
        if tuple(adapters) != self._used:
            tensors_B = self.layout.split(torch.stack([a.vector_P for a in adapters]))
            self._updates = [(tensors_B[path + A], tensors_B[path + B]) for path in self._layers]
            self._used = tuple(adapters)
        try:
            for layer, updates in zip(self._layers.values(), self._updates, strict=True):
                layer.updates = updates
            yield
        finally:
            for layer in self._layers.values():
                layer.updates = None


class RowVector:
    """A user's adapter, as one vector."""

    def __init__(self, model: RowAdaptedModel, vector_P: Tensor) -> None:
        self.model, self.vector_P = model, vector_P

    def use(self, adapters: Sequence[RowVector]) -> Any:
        """Let row ``n`` use the n-th adapter inside the block; a single one is for all rows."""
        return self.model.use(adapters)
