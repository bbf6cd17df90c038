"""Find the row lengths at which a model's rotary embedding changes.

Some rotary embeddings depend on the longest row of a forward pass. ``longrope`` (Phi 3) switches
frequencies as soon as one position lies beyond the original context. ``dynamic`` NTK computes new
frequencies for each length beyond it. A short row next to a long one would then get factors that it
never gets alone. So rows are divided into *length classes*, and only rows of one class share a
forward pass::

    original context 4096           class 0: rows of up to 4096 tokens
                                    class 1: longer rows

Each rotary module is called with lengths on both sides of every context length in the config. That
takes a few operations on two positions and no layer of the model.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor


@dataclass(frozen=True)
class LengthClasses:
    """The length classes of a model. Only rows of one class may share a forward pass."""

    thresholds: tuple[int, ...] = ()
    """Row lengths beyond which the rotary factors change."""
    exact_beyond: int | None = None
    """Row length beyond which each length has its own factors; None if there is no such length."""

    def class_of(self, length: int) -> int:
        """Return the class of a row with this many tokens; 0 is the class of the shortest rows."""
        if self.exact_beyond is not None and length > self.exact_beyond:
            return length
        return sum(length > threshold for threshold in self.thresholds)

    @property
    def has_state(self) -> bool:
        """True if a pass over a long row changes the factors of later passes."""
        return self.exact_beyond is not None


_found: WeakKeyDictionary[nn.Module, LengthClasses] = WeakKeyDictionary()


def length_classes(model: nn.Module) -> LengthClasses:
    """Return the length classes of a model; they are determined once and cached."""
    if model not in _found:
        _found[model] = _find_length_classes(model)
    return _found[model]


def reset_rotary_state(model: nn.Module) -> None:
    """Reset rotary embeddings that remember the longest row to the factors for short rows."""
    for module, options in _rotary_calls(model):
        _factors(module, options, 1)


def _find_length_classes(model: nn.Module) -> LengthClasses:
    thresholds = set[int]()
    exact_beyond: int | None = None
    for module, options in _rotary_calls(model):
        found = [length for length in _context_lengths(module) if _changes(module, options, length)]
        thresholds.update(found)
        # If the factors still change beyond the last threshold, every length has different ones.
        if found and not _equal(*(_factors(module, options, n * max(found) + 1) for n in (1, 2))):
            exact_beyond = min(found[-1], exact_beyond or found[-1])
        _factors(module, options, 1)
    return LengthClasses(tuple(sorted(thresholds)), exact_beyond)


def _changes(module: nn.Module, options: dict[str, str], length: int) -> bool:
    """Return True if the factors of a position depend on whether a row exceeds ``length``."""
    _factors(module, options, 1)
    within, beyond = (_factors(module, options, tokens) for tokens in (length, length + 1))
    return not _equal(within, beyond)


def _rotary_calls(model: nn.Module) -> Iterator[tuple[nn.Module, dict[str, str]]]:
    """Yield each rotary module with each kind of layer that it has factors for."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None or "position_ids" not in inspect.signature(module.forward).parameters:
            continue
        if any(buffer.is_meta or isinstance(buffer, FakeTensor) for buffer in module.buffers()):
            continue  # a model built for a memory estimate has no values
        for layer in kinds if isinstance(kinds, dict) else [None]:
            yield module, {} if layer is None else {"layer_type": layer}


def _factors(module: nn.Module, options: dict[str, str], tokens: int) -> list[Tensor]:
    """Return the rotary factors of one position in a row of this many tokens."""
    device = next((buffer.device for buffer in module.buffers()), torch.device("cpu"))
    position_12 = torch.tensor([[min(1, tokens - 1), tokens - 1]], device=device)
    out = module(torch.zeros(1, device=device), position_12, **options)
    return [factor[..., :1, :].clone() for factor in (out if isinstance(out, tuple) else (out,))]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def _context_lengths(module: nn.Module) -> list[int]:
    """Return the context lengths in the module's config, in ascending order."""
    config = getattr(module, "config", None)
    return sorted(set(_numbers_named("max_position", config.to_dict() if config else {})))


def _numbers_named(part: str, config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers_named(part, value)
        elif part in str(name) and isinstance(value, int) and value > 1:
            yield value
