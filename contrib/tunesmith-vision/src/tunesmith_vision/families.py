"""Types of vision-language models that are supported, and why others are not.

The language model must read image features like any other embeddings: with ordinary positions and
causal attention.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import UsageError

__all__ = ["FAMILIES", "REFUSED", "VISION_FOLDER", "Family", "explain_refusal", "find_family"]

VISION_FOLDER = "vision"
"""Folder of the tower, beside the language model of a divided model."""


@dataclass(frozen=True)
class Family:
    """The names of a model family's parts inside ``model.model``."""

    language: str
    projector: str
    """The module that maps features to embeddings, one feature at a time."""
    tiles: bool = False
    """True if an image may become several pictures, with tokens around each of them."""


FAMILIES = {
    "llava": Family("language_model", "multi_modal_projector"),
    "idefics3": Family("text_model", "connector.modality_projection", tiles=True),
    "smolvlm": Family("text_model", "connector.modality_projection", tiles=True),
}
_ROTARY = "its images have positions in three dimensions, which packed rows do not have here"
_TWO_WAY = "the tokens of an image attend to each other in both directions, which is not causal"
REFUSED = {
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "glm4v"), _ROTARY),
    **dict.fromkeys(("gemma3", "gemma3n", "paligemma"), _TWO_WAY),
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


def explain_refusal(name: str) -> str:
    """Return the reason why a type of models is not supported."""
    reason = REFUSED.get(name, "it is not known how its images become tokens")
    return f"models of type {name} are not supported: {reason}"
