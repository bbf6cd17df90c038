"""Merge what ``vision`` trained into the vision-language model that it started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunesmith.errors import UsageError
from tunesmith_torch.models.artifacts import attach_adapter, detect_artifact_format
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.untrusted.foreign_code import read_json_object
from tunesmith_vision.technique import (
    NO_ADAPTER,
    PROJECTOR_FILE,
    TRAINED_TOWER_FILE,
    VISION_FILE,
    read_trained_parts,
)
from tunesmith_vision.vlm import ModelTower, join_model

__all__ = ["merge_artifact"]


def merge_artifact(artifact: Path, base: Path, out: Path) -> None:
    """Write the merged model; ``base`` is the divided model of the training.

    Raises:
        UsageError: ``out`` exists, or ``base`` has no tower.
        IntegrityError: the artifact belongs to another model.
    """
    tower = ModelTower(base)
    about = read_json_object(artifact / VISION_FILE)
    if bits := about.get("quantization_bits"):
        raise UsageError(
            f"{artifact}: was trained over a model of {bits} bits, so it does not fit the weights "
            "that would be merged",
            hint="serve it with tunesmith, or train again without technique.quantization",
        )
    is_full = detect_artifact_format(artifact) == "model"
    folder = artifact if is_full else base
    loaded = load_base(folder, device=torch.device("cpu"), dtype=torch.float32)
    read_trained_parts(tower.build_projector(0, 1.0, 0), tower, artifact)  # checks that it fits
    language: Any = loaded.model
    if not is_full:
        config = read_json_object(artifact / "adapter_config.json")
        if config.get("peft_type") != NO_ADAPTER:
            language = attach_adapter(loaded, artifact, fused_kernels=False).merge_and_unload()
    trained = artifact / TRAINED_TOWER_FILE
    weights = load_file(trained) if trained.is_file() else {}
    join_model(language, load_file(artifact / PROJECTOR_FILE), weights, base, out)
