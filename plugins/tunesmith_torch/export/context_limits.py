"""Lengths of a text from which a model computes in another way, which short rows do not show.

An engine may omit the window of the attention, or the scaling of the rope of long texts: it
computes the same as the trained model until a text is longer.
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
"""Key of the config with the size of a window, by the type of the layers that have one."""


@dataclass(frozen=True)
class ContextLimit:
    """A length from which a model computes in another way."""

    what: str
    """Names it, such as ``a window of 4096 tokens``."""
    tokens: int
    """Tokens of the longest text that is computed as short ones are."""
    context: int
    """Tokens of the longest text that the model takes."""


def find_context_limits(config: Any) -> list[ContextLimit]:
    """Return the limits of a model with this transformers config, None if it has none."""
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
            yield f"a window of {size} tokens", size


def _find_rope_limits(config: Any, context: int) -> Iterator[tuple[str, int]]:
    """Yield the ropes that depend on the length of the text; others scale every position.

    The dynamic one changes after the context of the config, which its texts may exceed.
    """
    parameters = getattr(config, "rope_parameters", None)
    if not isinstance(parameters, Mapping):
        return
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    for rope in nested or [parameters]:
        kind, size = rope.get("rope_type"), rope.get("original_max_position_embeddings")
        size = size or getattr(config, "original_max_position_embeddings", None)
        if kind == "dynamic":
            yield f"another rope (dynamic) after {context} tokens", context
        elif kind == "longrope" and isinstance(size, int) and 0 < size < context:
            yield f"another rope (longrope) after {size} tokens", size
