"""Merge what ``vision`` trained into the vision-language model that it started from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tunesmith.errors import UsageError
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.loading import load_base
from tunesmith_torch.untrusted.foreign_code import read_json_object
from tunesmith_vision.technique import NO_ADAPTER, PROJECTOR_FILE, VISION_FILE, read_projector
from tunesmith_vision.vlm import ModelTower, join_model

__all__ = ["merge_artifact"]


def merge_artifact(artifact: Path, base: Path, out: Path) -> None:
    """Write the merged model; ``base`` is the divided model of the training.

    Raises:
        UsageError: ``out`` exists, or ``base`` has no tower.
        IntegrityError: the artifact belongs to another model.
    """
    loaded = load_base(base, device=torch.device("cpu"), dtype=torch.float32)
    tower = ModelTower(base)
    read_projector(tower.build_projector(0, 1.0, 0), tower, artifact)  # checks that it fits
    if bits := read_json_object(artifact / VISION_FILE).get("quantization_bits"):
        raise UsageError(
            f"{artifact}: was trained over a model of {bits} bits, so it does not fit the weights "
            "that would be merged",
            hint="serve it with tunesmith, or train again without technique.quantization",
        )
    language: Any = loaded.model
    config = read_json_object(artifact / "adapter_config.json")
    if config.get("peft_type") != NO_ADAPTER:
        language = attach_adapter(loaded, artifact, fused_kernels=False).merge_and_unload()
    join_model(language, load_file(artifact / PROJECTOR_FILE), base, out)
