"""Read facts, such as end tokens, from a model folder for the first checks of an export."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open

from tunesmith_torch.models.model_folder import check_model_folder, find_weight_files
from tunesmith_torch.untrusted.foreign_code import read_json_object

__all__ = ["read_adapter_facts", "read_added_tokens", "read_folder_facts"]


def read_folder_facts(folder: Path) -> dict[str, Any]:
    """Return facts about a folder that contains a config, safetensors weights and a tokenizer.

    Raises:
        IntegrityError: a file is missing or incomplete.
    """
    config = check_model_folder(folder)
    text_config = config.get("text_config", config)
    names = {name for file in find_weight_files(folder) for name in _list_names(file)}
    is_tied = bool(text_config.get("tie_word_embeddings"))
    generation = folder / "generation_config.json"
    ends = json.loads(generation.read_text("utf-8")) if generation.is_file() else config
    ids = ends.get("eos_token_id")
    return {
        "end_ids": frozenset(ids if isinstance(ids, list) else [ids]),
        "rope_theta": text_config.get("rope_theta"),
        "tied": is_tied and not any(name.endswith("lm_head.weight") for name in names),
        "tokens": read_added_tokens(folder),
    }


def read_adapter_facts(folder: Path, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return facts about an exported adapter from its folder and its base model's config.

    Raises:
        IntegrityError: a file is missing or damaged.
    """
    text_config = config.get("text_config", config)
    ends = read_json_object(folder / "generation_config.json").get("eos_token_id")
    rope = text_config.get("rope_parameters") or {}
    return {
        "end_ids": frozenset(ends if isinstance(ends, list) else [ends]),
        "rope_theta": text_config.get("rope_theta", rope.get("rope_theta")),
        "tied": bool(text_config.get("tie_word_embeddings")),
        "tokens": read_added_tokens(folder),
    }


def read_added_tokens(folder: Path) -> dict[str, int]:
    """Return the ids of a tokenizer's added tokens by text."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    return {t["content"]: t["id"] for t in tokenizer.get("added_tokens", ())}


def _list_names(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as stored:
        return list(stored.keys())
