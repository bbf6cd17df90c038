"""Text models with a user's adapter, which share the weights of one base model."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import torch
from torch import Tensor

from tunesmith.errors import IntegrityError
from tunesmith_personal.segments import Layout
from tunesmith_torch.generation.text_model import TorchTextModel


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
    return TorchTextModel(copied, shared.template, shared.device)


def name_in_model(name: str) -> str:
    """Return the name in a PEFT model of a tensor in an adapter's file."""
    return f"{name.removesuffix('.weight')}.default.weight"
