"""Save a tiny model of an architecture as a folder like a hub's, with random weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tests.architectures.sizes import Sizes, tiny_config
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig

from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer


@dataclass(frozen=True)
class Case:
    """An architecture, or a variant of it with other values in its config."""

    model_type: str
    variant: str = ""
    changes: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.model_type} ({self.variant})" if self.variant else self.model_type


def save_model(case: Case, sizes: Sizes, seed: int, folder: Path) -> int:
    """Save model and tokenizer; return the number of parameters."""
    config = tiny_config(case.model_type, sizes, case.changes)
    disable_randomness(config)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    spread_weights(model)
    model.save_pretrained(folder)
    build_tiny_tokenizer().save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def disable_randomness(config: PretrainedConfig) -> None:
    """Set dropout and noise to zero, so that two computations can be compared."""
    for name, value in config.to_dict().items():
        if name in config.sub_configs:
            inner = getattr(config, name, None)
            if isinstance(inner, PretrainedConfig):
                disable_randomness(inner)
        elif isinstance(value, float) and any(w in name for w in ("drop", "pdrop", "jitter")):
            setattr(config, name, 0.0)


@torch.no_grad()
def spread_weights(model: torch.nn.Module) -> None:
    """Replace the usual initial values, nearly all of which are zero, one or tiny.

    Otherwise attention would be uniform, biases and norms would have no effect, and the two best
    tokens of an answer would be tied.
    """
    head = model.get_output_embeddings()
    for parameter in model.parameters():
        if not parameter.is_floating_point():
            continue
        noise = torch.randn_like(parameter)
        if parameter.ndim < 2:
            parameter.mul_(1 + 0.1 * noise).add_(0.05 * torch.randn_like(parameter))
        elif float(parameter.std()) < 0.1:
            parameter.copy_(noise * fan_in(parameter) ** -0.5)
    if head is not None and getattr(head, "weight", None) is not None:
        head.weight.mul_(1.5)
    for name, buffer in model.named_buffers():
        if "bias" in name and buffer.is_floating_point() and not buffer.any():
            buffer.copy_(0.02 * torch.randn_like(buffer))


def fan_in(parameter: Tensor) -> int:
    """Return the number of inputs of a matrix, or of each matrix in a stack."""
    return max(1, parameter.shape[-1])
