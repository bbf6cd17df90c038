"""Check tensor by tensor that training changed the model, and that a merge kept the changes.

Scores can hide both faults: one frozen or lost expert of many costs little on a small test set.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from tunesmith.text import format_count
from tunesmith_torch.models.artifacts import ADAPTER_WEIGHTS_FILE
from tunesmith_torch.models.model_folder import find_weight_files

NAMED = 3
"""Number of tensors that a message names."""
_PREFIX = "base_model.model."
_PARTS = (
    *(".lora_", ".hada_", ".lokr_", ".ia3_", ".oft_", ".boft_", ".vera_", ".base_layer"),
    ".token_adapter",
)
"""The beginning of an adapter's own part in the name of a tensor."""
_BITS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@torch.no_grad()
def digest_trainable(model: nn.Module) -> dict[str, int]:
    """Return a checksum of each trainable parameter's bits; one pass over the memory.

    The checksum is the sum of the bits as integers. A changed tensor keeps its checksum only if the
    changes of its elements cancel out exactly. Stacked experts have one checksum each, because in a
    joint checksum the others would hide a frozen one.
    """
    found: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        bits = parameter.detach().contiguous().view(_BITS[parameter.element_size()])
        if "experts" in name and bits.ndim == 3:
            sums = bits.sum((1, 2), dtype=torch.int64).tolist()
            found |= {f"{name}[{expert}]": total for expert, total in enumerate(sums)}
        else:
            found[name] = int(bits.sum(dtype=torch.int64))
    return found


def describe_unchanged(before: Mapping[str, int], after: Mapping[str, int]) -> str:
    """Describe the trainable tensors that training did not change; return "" if all changed."""
    unchanged = [name for name, checksum in before.items() if after.get(name) == checksum]
    if not unchanged:
        return ""
    return (
        f"{len(unchanged):,} of {format_count(len(before), 'trainable tensor')} did not change in "
        f"training: {_name(unchanged)}"
    )


def list_lost_changes(base: Path, adapter: Path, merged: Path) -> tuple[list[str], int]:
    """Find the tensors that an adapter changes but that equal the base model's after a merge.

    Args:
        base: folder of the base model.
        adapter: folder of the adapter.
        merged: folder of the merged model.

    Returns:
        The names of the lost tensors, and the number of tensors that the adapter changes.
    """
    stored, written = _open(base), _open(merged)
    expected = list_adapted(adapter, stored)
    lost = []
    for name in expected:
        if name not in written:
            lost.append(name)
            continue
        after = written[name].get_tensor(name)
        if torch.equal(stored[name].get_tensor(name).to(after.dtype), after):
            lost.append(name)
    return lost, len(expected)


def list_adapted(adapter: Path, stored: Mapping[str, Any]) -> list[str]:
    """Return the names of the stored tensors that an adapter changes.

    A LoRA layer whose matrix B is zero changes nothing. The layers of stacked experts have one
    matrix B for all of them, while each expert may be stored as a separate tensor. These tensors
    are found by the beginning of their names and their shape, if no expert's part of B is zero.
    """
    found: dict[str, bool] = {}
    for name, tensor in load_file(adapter / ADAPTER_WEIGHTS_FILE).items():
        inner = name.removeprefix(_PREFIX)
        place = min((inner.find(part) for part in _PARTS if part in inner), default=-1)
        target = inner[:place] + ".weight" if place >= 0 else inner
        if ".lora_A" in inner or ".lora_embedding_A" in inner:
            continue
        if target in stored:
            found[target] = found.get(target, False) or bool(tensor.any())
        elif ".lora_B" in inner and bool(tensor.any(0).all()):
            start = target.removesuffix("weight")
            experts = (n for n in stored if n.startswith(start) and _has_rows(stored[n], n, tensor))
            found |= dict.fromkeys(experts, True)
    return [name for name, is_changed in found.items() if is_changed]


def _has_rows(tensors: Any, name: str, b_OR: Tensor) -> bool:
    """Return True if a tensor has the outputs of B, or half of them: gate and up are stacked."""
    shape = tensors.get_slice(name).get_shape()
    return b_OR.shape[0] in shape or b_OR.shape[0] == 2 * shape[0]


def describe_lost(lost: Sequence[str]) -> str:
    """Describe the tensors whose trained values are missing in the merged model."""
    return (
        f"the merged model has the base model's values in {format_count(len(lost), 'tensor')} that "
        f"training changed: {_name(lost)}"
    )


def _name(tensors: Sequence[str]) -> str:
    more = f", ... ({len(tensors) - NAMED:,} more)" if len(tensors) > NAMED else ""
    return ", ".join(tensors[:NAMED]) + more


def _open(folder: Path) -> dict[str, Any]:
    """Open each weight file once; return the open file that contains each tensor, by its name."""
    found: dict[str, Any] = {}
    for file in find_weight_files(folder):
        tensors: Any = safe_open(file, framework="pt")
        found |= dict.fromkeys(tensors.keys(), tensors)
    return found
