"""Types of vision-language models that are supported, and why others are not.

In most families, the language model reads image features like any other embeddings: with ordinary
positions and causal attention. :mod:`tunesmith_vision.grid_positions` and
:mod:`tunesmith_vision.image_blocks` are for the others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith.errors import UsageError

__all__ = [
    "FAMILIES",
    "REFUSED",
    "VISION_FOLDER",
    "Family",
    "explain_refusal",
    "find_family",
    "find_kind",
]

VISION_FOLDER = "vision"
"""Folder of the tower, beside the language model of a divided model."""


@dataclass(frozen=True)
class Family:
    """The names of a model family's parts inside ``model.model``, and how it reads images."""

    language: str
    tower: str
    """The module that computes features."""
    projector: str
    """The module that maps features to embeddings."""
    kind: Literal["fixed", "tiles", "grid", "blocks"] = "fixed"
    """The arrangement of the tokens of an image.

    ``fixed``: always the same number of tokens. ``tiles``: an image may become several pictures,
    with tokens around each of them. ``grid``: rows and columns of tokens, as many as the size asks
    for, with positions in three dimensions. ``blocks``: a fixed number of tokens that attend to
    each other in both directions.
    """


FAMILIES = {
    "llava": Family("language_model", "vision_tower", "multi_modal_projector"),
    "idefics3": Family("text_model", "vision_model", "connector.modality_projection", "tiles"),
    "smolvlm": Family("text_model", "vision_model", "connector.modality_projection", "tiles"),
    "qwen2_vl": Family("language_model", "visual", "visual.merger", "grid"),
    "qwen2_5_vl": Family("language_model", "visual", "visual.merger", "grid"),
    "gemma3": Family("language_model", "vision_tower", "multi_modal_projector", "blocks"),
}
REFUSED = {
    "qwen3_vl": "features of its images enter several layers of the language model",
    "gemma3n": "each layer of its language model has its own embeddings of tokens",
    "paligemma": "all tokens of its prompts attend to each other in both directions",
}


def find_family(config: Mapping[str, Any], where: Path) -> Family:
    """Return the family of a model.

    Raises:
        UsageError: the family is not supported.
    """
    name = str(config.get("model_type"))
    if name in FAMILIES:
        return FAMILIES[name]
    hint = f"use a model of one of these types: {', '.join(FAMILIES)}"
    raise UsageError(f"{where}: {explain_refusal(name)}", hint=hint)


def find_kind(model: Path) -> str:
    """Return the kind of a divided model's family; empty for a model without its own tower."""
    file = model / VISION_FOLDER / "config.json"
    if not file.is_file():
        return ""
    return find_family(json.loads(file.read_text(encoding="utf-8")), file).kind


def explain_refusal(name: str) -> str:
    """Return the reason why a type of models is not supported."""
    reason = REFUSED.get(name, "it is not known how its images become tokens")
    return f"models of type {name} are not supported: {reason}"
