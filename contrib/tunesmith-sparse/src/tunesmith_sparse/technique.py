"""Technique ``sparse``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import IntegrityError
from tunesmith_sparse.layers import add_values, choose_random, sparse_layers
from tunesmith_sparse.masks import choose_positions
from tunesmith_sparse.options import SparseOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase, pick_model_precision
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import Precision, pick_device
from tunesmith_torch.training.supervised import SupervisedData, SupervisedTask
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, train
from tunesmith_torch.untrusted.foreign_code import read_json_object

__all__ = ["Sparse", "add_delta"]

DELTA_FILE, CONFIG_FILE = "sparse.safetensors", "adapter_config.json"
_LOAD_ERRORS = (OSError, AttributeError, LookupError, RuntimeError, ValueError, SafetensorError)
CARD = """---
library_name: transformers
tags: [tunesmith, sparse]
---

Changes of a few weights, made with tunesmith by `sparse`. The README of tunesmith-sparse has a
loader of a few lines for plain transformers.
"""


class Sparse:
    """Trains a few weights of each linear layer, on the demonstrations."""

    def __init__(self, options: SparseOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Train the values and write them with their positions, or with the seed."""
        return train(job, SparseTask())

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the base model with the trained values added, or without if ``artifact`` is None."""
        torch_device = pick_device(device)
        precision = pick_model_precision(model, torch_device, self.options.precision)
        base = load_model(
            model,
            torch_device,
            precision,
            packing=False,
            fused_kernels=self.options.fused_kernels,
        )
        if artifact is not None:
            add_delta(base.model, artifact)
        template = Template.from_options(base.tokenizer, self.options)
        return TorchTextModel(base.model, template, torch_device, keeps_prefix=True)


class SparseTask(SupervisedTask):
    """Supervised fine-tuning of a few weights."""

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Choose the weights, and add their trained values."""
        self.seed = job.seed
        options: SparseOptions = job.config
        chosen = choose_positions(base, job)
        return add_values(base, precision, options.density, options.modules, chosen, job.seed)

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        """Return the objective; the card of the artifact is this technique's own."""
        return replace(super().prepare(session, data), write_extra=_write_card)

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return the model in a form that writes the values, not the base model."""
        model: Any = _Delta(session.adapted.model, session.options, self.seed)
        return replace(session.adapted, model=model)


def _write_card(folder: Path) -> None:
    (folder / "README.md").write_text(CARD, encoding="utf-8")


class _Delta:
    """The trained values of a model, as the trainer saves an adapter."""

    def __init__(self, model: Any, options: SparseOptions, seed: int) -> None:
        self.layers, self.options, self.seed = sparse_layers(model), options, seed

    def save_pretrained(self, folder: Path, *, save_embedding_layers: bool) -> None:
        """Write the values; positions are stored unless they follow from the seed."""
        tensors = {f"{n}.values": m.values.detach().cpu() for n, m in self.layers.items()}
        if self.options.mask != "random":
            tensors |= {
                f"{n}.indices": m.get_buffer("indices_K").int().cpu()
                for n, m in self.layers.items()
            }
        save_file(tensors, folder / DELTA_FILE, metadata={"format": "pt"})
        config = {"peft_type": "TUNESMITH_SPARSE", "mask": self.options.mask, "seed": self.seed}
        (folder / CONFIG_FILE).write_text(json.dumps(config), encoding="utf-8")


@torch.no_grad()
def add_delta(model: Any, folder: Path) -> None:
    """Add the values in an artifact to the weights of a model, in place.

    Raises:
        IntegrityError: the artifact is damaged, or belongs to another model.
    """
    config = read_json_object(folder / CONFIG_FILE)
    try:
        tensors = load_file(folder / DELTA_FILE)
        for key in [key for key in tensors if key.endswith(".values")]:
            name, values_K = key.removesuffix(".values"), tensors[key]
            flat = model.get_submodule(name).weight.view(-1)
            if f"{name}.indices" in tensors:
                indices_K = tensors[f"{name}.indices"].long()
            else:
                indices_K = choose_random(config["seed"], name, len(flat), len(values_K))
            if not values_K.isfinite().all() or not (indices_K >= 0).all():
                raise ValueError(f"implausible values or positions in {name}")
            indices_K, values_K = indices_K.to(flat.device), values_K.to(flat.device)
            flat[indices_K] = (flat[indices_K].float() + values_K).to(flat.dtype)
    except _LOAD_ERRORS as error:
        raise IntegrityError(
            f"{folder}: the changes do not fit this base model: {error!s:.200}",
            hint="use the base model of the training, or restore the files",
        ) from error
