"""Row lengths at which a model's rotary embedding changes, found by trying it out.

Some rotary embeddings depend on the longest row of a forward pass: ``longrope`` (Phi 3) has other
frequencies as soon as one position lies beyond the original context, ``dynamic`` NTK computes new
ones for each length there. A short row beside a long one would be computed with factors that it
never gets alone. So rows are divided into *length classes*, and only rows of one class share a
forward pass::

    original context 4096           class 0: rows of up to 4096 tokens
                                    class 1: longer rows

Each rotary module is called with the lengths on both sides of every context length that the config
names, which takes a few operations on two positions and no layer of the model.
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
    """The classes of row lengths whose rows may share a forward pass."""

    thresholds: tuple[int, ...] = ()
    """Rows of more tokens than one of these have other rotary factors."""
    exact_beyond: int | None = None
    """Among rows of more tokens, each length has factors of its own."""

    def class_of(self, length: int) -> int:
        """Return the class of rows of this many tokens; 0 is that of the shortest rows."""
        if self.exact_beyond is not None and length > self.exact_beyond:
            return length
        return sum(length > threshold for threshold in self.thresholds)

    @property
    def has_state(self) -> bool:
        """Return True if a pass over a long row changes the factors of later passes."""
        return self.exact_beyond is not None


_found: WeakKeyDictionary[nn.Module, LengthClasses] = WeakKeyDictionary()


def length_classes(model: nn.Module) -> LengthClasses:
    """Return the length classes of a model; they are found once for each model."""
    if model not in _found:
        _found[model] = _find_length_classes(model)
    return _found[model]


def reset_rotary_state(model: nn.Module) -> None:
    """Restore the factors for short rows in rotary embeddings that remember the longest row."""
    for module, options in _rotary_calls(model):
        _factors(module, options, 1)


def _find_length_classes(model: nn.Module) -> LengthClasses:
    thresholds = set[int]()
    exact_beyond: int | None = None
    for module, options in _rotary_calls(model):
        found = [length for length in _context_lengths(module) if _changes(module, options, length)]
        thresholds.update(found)
        # Unless the factors beyond the last threshold stay the same, each length has its own.
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
    """Yield the rotary modules, once for each kind of layer that they have factors for."""
    for module in model.modules():
        kinds = getattr(module, "rope_type", None)
        if kinds is None or "position_ids" not in inspect.signature(module.forward).parameters:
            continue
        if any(buffer.is_meta or isinstance(buffer, FakeTensor) for buffer in module.buffers()):
            continue  # a model that is only estimated has no numbers
        for layer in kinds if isinstance(kinds, dict) else [None]:
            yield module, {} if layer is None else {"layer_type": layer}


def _factors(module: nn.Module, options: dict[str, str], tokens: int) -> list[Tensor]:
    """Return the factors of one position in a row of this many tokens."""
    device = next((buffer.device for buffer in module.buffers()), torch.device("cpu"))
    position_12 = torch.tensor([[min(1, tokens - 1), tokens - 1]], device=device)
    out = module(torch.zeros(1, device=device), position_12, **options)
    return [factor[..., :1, :].clone() for factor in (out if isinstance(out, tuple) else (out,))]


def _equal(one: list[Tensor], other: list[Tensor]) -> bool:
    return all(map(torch.equal, one, other))


def _context_lengths(module: nn.Module) -> list[int]:
    """Return the context lengths that the module's config names, in order."""
    config = getattr(module, "config", None)
    return sorted(set(_numbers_named("max_position", config.to_dict() if config else {})))


def _numbers_named(part: str, config: Mapping[str, Any]) -> Iterator[int]:
    for name, value in config.items():
        if isinstance(value, Mapping):
            yield from _numbers_named(part, value)
        elif part in str(name) and isinstance(value, int) and value > 1:
            yield value
