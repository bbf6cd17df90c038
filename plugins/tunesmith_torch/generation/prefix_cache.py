"""Models whose memory of a row is its keys and values, and the beginning that rows share.

Shapes: P tokens of the shared prefix.

Recurrent layers, shared keys and windows that are too narrow remember otherwise. What a model is
told of its cache, and what it asks of its attention function, is found by trying.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.generation.prefix_attention import Prefix, Unsupported, attending
from tunesmith_torch.losses.selected_positions import base_of

SHORTEST_PREFIX = 8
"""A shared beginning of fewer tokens is not worth a run of its own."""


def bare(model: torch.nn.Module) -> PreTrainedModel:
    """The transformers model that does the work; adapters of a peft model are inside of it.

    Raises:
        Unsupported: the adapter works in the wrapper's own forward, like a learned prompt.
    """
    try:
        return cast(PreTrainedModel, base_of(model))
    except EnvironmentProblem as error:
        raise Unsupported(error.message) from error


def holds_plain_cache(model: PreTrainedModel, longest: int) -> bool:
    """Whether every layer attends to all earlier tokens of rows up to ``longest`` tokens.

    Layers with a sliding window do while no row is longer than the window. Recurrent layers, and
    layers that read another layer's keys, never do.
    """
    if not model.is_backend_compatible() or model.config.is_encoder_decoder:
        return False
    if len({parameter.device for parameter in model.parameters()}) > 1:
        return False
    layers = DynamicCache(config=model.config).layers
    plain = all(
        type(layer) is DynamicLayer
        or (type(layer) is DynamicSlidingWindowLayer and layer.sliding_window >= longest)
        for layer in layers
    )
    return bool(layers) and plain and _attends_as_told(model)


def _attends_as_told(model: PreTrainedModel) -> bool:
    """Try it on two tokens: only the model knows what it asks of its attention function."""
    try:
        prefix = read_prefix(model, [0, 0])
    except Unsupported:
        return False
    layers: int = model.config.get_text_config().num_hidden_layers
    return prefix is not None and len(prefix.keys) == layers


def cache_argument(model: PreTrainedModel) -> str:
    """The name under which the model takes a cache; transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def shared_length(rows: Sequence[Any], most: int) -> int:
    """How many tokens all rows (lists, or arrays of Python's) begin with, ``most`` at most."""
    first, last = min(rows), max(rows)  # the two that differ the earliest, in lexical order
    count = 0
    for a, b in zip(first[: max(most, 0)], last, strict=False):
        if a != b:
            break
        count += 1
    return count


def shared_prefix(model: PreTrainedModel, rows: Sequence[Any], most: int) -> Prefix | None:
    """Run what all rows begin with, ``most`` tokens of it at most; None if it is not worth it."""
    shared = shared_length(rows, most) if len(rows) > 1 else 0
    return read_prefix(model, rows[0][:shared]) if shared >= SHORTEST_PREFIX else None


def read_prefix(model: PreTrainedModel, ids: Sequence[int]) -> Prefix | None:
    """Run the shared beginning once; None where there is none."""
    if not ids:
        return None
    ids_1P = torch.tensor([list(ids)], device=model.device)
    cache = DynamicCache()
    position_1P = torch.arange(len(ids), device=model.device)[None]
    with attending(model):
        model(
            input_ids=ids_1P,
            position_ids=position_1P,
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument(model): cache},
        )
    layers = cache.layers
    return Prefix(len(ids), [x.keys for x in layers], [x.values for x in layers])
