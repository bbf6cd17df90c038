"""Compute the common prefix of all rows once, for models with a plain key-value cache.

Shapes: P tokens of the common prefix.

If all prompts start with the same instructions, their keys and values are the same for all rows::

    row 0    [ instructions ][ question 0 ]
    row 1    [ instructions ][ question 1 ]
             |--- prefix ---|

Models with recurrent layers, with keys shared between layers, or with windows that are too narrow
have a different cache and cannot use this. Other incompatibilities of a model's attention are found
by a test run: see :mod:`tunesmith_torch.generation.cache_check`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, cast

import torch
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.generation.prefix_attention import (
    Prefix,
    UnsupportedModel,
    use_cached_attention,
)
from tunesmith_torch.losses.selected_positions import unwrap_peft

MIN_PREFIX_TOKENS = 8
"""Shorter common prefixes are not worth a separate forward pass."""


def unwrap_model(model: torch.nn.Module) -> PreTrainedModel:
    """Return the transformers model inside a PEFT model, with the adapters in its layers.

    Raises:
        UnsupportedModel: the adapter needs the wrapper's forward, as learned prompts do.
    """
    try:
        return cast(PreTrainedModel, unwrap_peft(model))
    except EnvironmentProblem as error:
        raise UnsupportedModel(error.message) from error


def has_plain_kv_cache(model: PreTrainedModel, longest: int) -> bool:
    """Return True if every layer attends to all earlier tokens of rows up to ``longest`` tokens.

    Layers with a sliding window do this if no row is longer than the window. Recurrent layers, and
    layers that read the keys of another layer, never do. The result is also False for
    encoder-decoder models, and for models on several devices or with a fixed attention function.
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
    return bool(layers) and plain


@lru_cache
def cache_argument_name(forward: Callable[..., object]) -> str:
    """Return the name of the cache argument of a model; transformers 5.24 renamed it."""
    return "cache" if "cache" in inspect.signature(forward).parameters else "past_key_values"


def common_prefix_length(rows: Sequence[Any], max_length: int) -> int:
    """Return the number of initial tokens that all rows share, at most ``max_length``.

    ``rows``: lists or ``array.array`` of ids.
    """
    # Of all pairs of rows, the first and the last in lexical order differ at the earliest token.
    first, last = min(rows), max(rows)
    count = 0
    for a, b in zip(first[: max(max_length, 0)], last, strict=False):
        if a != b:
            break
        count += 1
    return count


class LastPrefix:
    """The common prefix of the last call; the next call often has the same one.

    Answers to the same prompts are generated and scored, for example. Only an equal prefix is used
    again, so results are bit for bit the same as without it. The model's weights must not change.
    """

    def __init__(self) -> None:
        self._last: tuple[list[int], Prefix] | None = None

    def compute(self, model: PreTrainedModel, ids: Sequence[int]) -> Prefix:
        """Return the prefix with these tokens; compute it unless it equals the last prefix."""
        last = self._last
        if last is None or last[0] != [*ids]:
            last = self._last = None  # frees the memory of the old prefix first
            last = self._last = [*ids], compute_prefix(model, ids)
        return last[1]


def compute_common_prefix(
    model: PreTrainedModel, rows: Sequence[Any], max_length: int, last: LastPrefix
) -> Prefix | None:
    """Compute the prefix that all rows share, up to ``max_length`` tokens.

    The result is None for a single row, or if the prefix is shorter than ``MIN_PREFIX_TOKENS``.
    """
    shared = common_prefix_length(rows, max_length) if len(rows) > 1 else 0
    return last.compute(model, rows[0][:shared]) if shared >= MIN_PREFIX_TOKENS else None


def compute_prefix(
    model: PreTrainedModel, ids: Sequence[int], before: Prefix | None = None
) -> Prefix:
    """Run the model on the prefix and return its keys and values.

    ``before`` is a known prefix at the start of ``ids``; only the tokens after it are computed.
    """
    known = before.length if before else 0
    ids_1T = torch.tensor([list(ids[known:])], device=model.device)
    cache = DynamicCache()
    position_1T = torch.arange(known, len(ids), device=model.device)[None]
    with use_cached_attention(model, before):
        model(
            input_ids=ids_1T,
            position_ids=position_1T,
            use_cache=True,
            logits_to_keep=1,
            **{cache_argument_name(type(model).forward): cache},
        )
    keys, values = [x.keys for x in cache.layers], [x.values for x in cache.layers]
    if before is not None:
        keys = [torch.cat(pair, dim=2) for pair in zip(before.keys, keys, strict=True)]
        values = [torch.cat(pair, dim=2) for pair in zip(before.values, values, strict=True)]
    return Prefix(len(ids), keys, values)
