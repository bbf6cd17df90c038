"""Text models with a user's adapter, which share the weights of one base model."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tunesmith.contracts import RunContext, TextModel
from tunesmith.errors import IntegrityError
from tunesmith.execution.wrapped_model import WrappedModel
from tunesmith_personal.segments import Layout
from tunesmith_personal.store import Store
from tunesmith_torch.generation.cache_check import declare_copy
from tunesmith_torch.generation.text_model import TorchTextModel


@dataclass(frozen=True)
class OneForAll(WrappedModel):
    """A model that answers all users itself, although it has an adapter."""


@dataclass(frozen=True)
class UserModels:
    """The models of a run's users."""

    shared: TorchTextModel
    """The model with the shared adapter."""
    layout: Layout
    store: Store

    @classmethod
    def find(cls, model: TextModel, run: RunContext) -> UserModels | None:
        """Return the users' models if ``model`` is the run's tuned model; None for a baseline.

        A model gets prompts, and users may ask the same. So only an evaluator, which has the
        records, can let each user's own adapter answer.
        """
        inner: Any = model
        while isinstance(inner, WrappedModel) and not isinstance(inner, OneForAll):
            inner = inner.model
        artifact = run.artifacts.get("")
        if artifact is None or not isinstance(inner, TorchTextModel):
            return None
        if not any(".lora_" in name for name, _ in inner.model.named_parameters()):
            return None
        return cls(inner, Layout.read(artifact)[0], Store(artifact.parents[1]))

    def open(self, user: str) -> TextModel | None:
        """Return the model with a user's own adapter, or None if the user has none."""
        entry = self.store.find(user)
        if entry is None or not entry.has_adapter:
            return None
        return copy_with_adapter(self.shared, self.layout, self.store.vector(entry))


def open_base(shared: TorchTextModel, layout: Layout) -> TorchTextModel:
    """Return the base model as the model with an adapter of zeros, which adds exactly 0."""
    return copy_with_adapter(shared, layout, torch.zeros(sum(layout.sizes)))


@torch.no_grad()
def copy_with_adapter(shared: TorchTextModel, layout: Layout, vector_P: Tensor) -> TorchTextModel:
    """Return the model with a user's adapter in place of the shared one.

    Only the adapter is copied. All other weights are the tensors of the given model.

    Raises:
        IntegrityError: the vector does not belong to this model.
    """
    model: Any = shared.model
    named = dict(model.named_parameters())
    kept = [p for name, p in named.items() if ".lora_" not in name]
    copied = deepcopy(model, {id(tensor): tensor for tensor in [*kept, *model.buffers()]})
    own = {n: p for n, p in copied.named_parameters() if ".lora_" in n}
    shapes = {name: tuple(parameter.shape) for name, parameter in own.items()}
    if shapes != {name_in_model(name): shape for name, shape in layout.shapes.items()}:
        raise IntegrityError(
            "a user's adapter does not fit the shared adapter's modules",
            hint="restore the run folder from a backup",
        )
    for name, tensor in layout.split(vector_P).items():
        own[name_in_model(name)].copy_(tensor)
    declare_copy(copied, model)
    return TorchTextModel(copied, shared.template, shared.device)


def name_in_model(name: str) -> str:
    """Return the name in a PEFT model of a tensor in an adapter's file."""
    return f"{name.removesuffix('.weight')}.default.weight"
