"""Find text lengths beyond which a model computes differently, so exports can be tested there.

An engine may lack the attention window, or the rope scaling of long texts. Then it matches the
trained model only up to that length.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_WINDOWS = {
    "sliding_attention": "sliding_window",
    "chunked_attention": "attention_chunk_size",
    "local_attention": "window_size",
}
"""The config key that holds the window size, by layer type."""


@dataclass(frozen=True)
class ContextLimit:
    """A text length beyond which a model computes differently."""

    what: str
    """The cause, such as ``sliding attention over 4096 tokens``."""
    tokens: int
    """Maximum number of tokens of a text that is computed like short texts."""
    context: int
    """Maximum number of tokens that the model accepts."""


def find_context_limits(config: Any) -> list[ContextLimit]:
    """Return the limits of a model with this transformers config; an empty list for None."""
    if config is None:
        return []
    text = config.get_text_config()
    context = getattr(text, "max_position_embeddings", None)
    if not isinstance(context, int):
        return []
    found = {*_find_windows(text, context), *_find_rope_limits(text, context)}
    return [ContextLimit(what, n, context) for what, n in sorted(found)]


def _find_windows(config: Any, context: int) -> Iterator[tuple[str, int]]:
    kinds = {*(getattr(config, "layer_types", None) or ())}
    if not kinds and getattr(config, "use_sliding_window", True):
        kinds = {"sliding_attention"}
    for kind in kinds & {*_WINDOWS}:
        size = getattr(config, _WINDOWS[kind], None)
        if isinstance(size, int) and 0 < size < context:
            yield f"{kind.replace('_', ' ')} over {size} tokens", size


def _find_rope_limits(config: Any, context: int) -> Iterator[tuple[str, int]]:
    """Yield limits from rope scaling that depends on the text's length; other scaling has none.

    Dynamic scaling changes beyond the config's context length, which texts may exceed.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    for rope in nested or [parameters]:
        kind, size = rope.get("rope_type"), rope.get("original_max_position_embeddings")
        size = size or getattr(config, "original_max_position_embeddings", None)
        if kind == "dynamic":
            yield f"RoPE scaling (dynamic) beyond {context} tokens", context
        elif kind == "longrope" and isinstance(size, int) and 0 < size < context:
            yield f"RoPE scaling (longrope) beyond {size} tokens", size
