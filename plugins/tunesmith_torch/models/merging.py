"""Merge an adapter into its base model, with both completely in memory.

Shapes: O outputs, I inputs of a layer.

An adapter trained over quantized weights has compensated for their rounding errors, so it is merged
into the *dequantized* weights that it was trained with. It would not fit the original weights, and
quantizing the sum would round most of the update away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import UsageError
from tunesmith.storage import read_manifest
from tunesmith.storage.manifest import MANIFEST, require_replaceable
from tunesmith_torch.models.artifacts import attach_adapter
from tunesmith_torch.models.legacy_config_keys import write_legacy_config_keys
from tunesmith_torch.models.loading import (
    LoadedBase,
    load_base,
    no_progress_bars,
)
from tunesmith_torch.models.quantization import (
    Quantization,
    compute_in_float32,
    dequantize,
    load_quantized,
    quantized_layers,
)
from tunesmith_torch.runtime.malloc import release_memory

__all__ = ["MergeOptions", "save_merged"]


@dataclass(frozen=True)
class MergeOptions:
    """The device, and the dtype and quantization of the base weights in training.

    Merging uses the same weights as training.
    """

    device: torch.device
    dtype: torch.dtype
    """The compute dtype in training."""
    quantization: Quantization | None = None
    """Quantization of the base weights in training; None: not quantized."""


def refuse_other_folder(out: Path, kind: str, artifact: Path) -> None:
    """Raise an error unless ``out`` is new, empty, or has a manifest of this ``kind``.

    A folder with another manifest may be an adapter or a checkpoint, which cannot be recreated.
    ``artifact`` is the trained model, whose folder must not change.

    Raises:
        IntegrityError: the manifest in ``out`` is damaged, or not a manifest of tunesmith.
        UsageError: ``out`` contains something else, or is inside the folder of the trained model.
    """
    hint = "choose another name with --out"
    if artifact.resolve() in out.resolve().parents:
        raise UsageError(
            f"{out}: this path is inside the trained model's folder, where nothing may be written",
            hint=f"choose a folder outside {artifact} with --out",
        )
    require_replaceable(out)  # now, not when the export is committed, after minutes of work
    if not (out / MANIFEST).is_file():
        return
    found = read_manifest(out).meta.get("format")
    if found != kind:
        held = {"adapter": "an adapter", "model": "a trained model"}
        raise UsageError(
            f"{out}: contains {held.get(str(found), 'something else')}, so it is not replaced",
            hint=hint,
        )


def save_merged(
    base: Path, adapter: Path, folder: Path, options: MergeOptions, dtype: torch.dtype
) -> None:
    """Merge base and adapter, and write the config and the weights in ``dtype``."""
    model = _merge(base, adapter, options).to(dtype)
    _untie_changed_head(model)
    with no_progress_bars():
        model.save_pretrained(folder)
    write_legacy_config_keys(folder)
    del model
    release_memory()


def load_training_base(base: Path, options: MergeOptions) -> LoadedBase:
    """Load the base model in float32, with exactly the weights that training used.

    Computing in bfloat16 would change distributions by more than a merge is allowed to.
    """
    if options.quantization is None:
        loaded = load_base(base, device=options.device, dtype=options.dtype)
        loaded.model.float()
    else:
        loaded = load_quantized(
            base, options.quantization, device=options.device, dtype=options.dtype
        )
        compute_in_float32(loaded.model)
    return loaded


def _merge(base: Path, adapter: Path, options: MergeOptions) -> PreTrainedModel:
    """Merge base and adapter in float32; return the model."""
    adapted = attach_adapter(_load_dequantized(base, options), adapter)
    model: PreTrainedModel = adapted.merge_and_unload(safe_merge=True)
    return model


def _load_dequantized(base: Path, options: MergeOptions) -> LoadedBase:
    """Return the base model with the weights that training used, as ordinary matrices."""
    training_base = load_training_base(base, options)
    if options.quantization is None:
        return training_base
    dequantized_base = load_base(base, device=options.device, dtype=options.dtype)
    dequantized_base.model.float()
    with torch.no_grad():
        for name, layer in quantized_layers(training_base.model).items():
            target: Any = dequantized_base.model.get_submodule(name)
            weight_OI = dequantize(layer, torch.float32)
            target.weight.copy_(weight_OI.T if isinstance(target, Conv1D) else weight_OI)
    return dequantized_base


def _untie_changed_head(model: PreTrainedModel) -> None:
    """Store the head as a separate matrix if it no longer equals the embeddings."""
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    config = model.config.get_text_config()
    if head is None or not config.tie_word_embeddings:
        return
    if head.weight is embeddings.weight or torch.equal(head.weight, embeddings.weight):
        model.tie_weights()
        return
    model.config.tie_word_embeddings = config.tie_word_embeddings = False
