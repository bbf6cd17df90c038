"""Technique ``vision``: train a language model that reads the features of a tower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.additions import Addition
from tunesmith.contracts import Artifact, Job, TextModel
from tunesmith.errors import IntegrityError, UsageError
from tunesmith.phases import run_phase
from tunesmith.records import Record
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.artifacts import attach_adapter, detect_artifact_format
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase, load_config, pick_model_precision
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.runtime.device import Precision, pick_device
from tunesmith_torch.training.additions import AdditionContext, TrainingAddition, Update
from tunesmith_torch.training.supervised import NextTokenObjective, SupervisedData, SupervisedTask
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, train
from tunesmith_torch.untrusted.foreign_code import read_json_object
from tunesmith_vision.families import VISION_FOLDER
from tunesmith_vision.features import (
    FeatureTable,
    ImageEmbedding,
    ImageEncoder,
    ImageTemplate,
    as_record,
)
from tunesmith_vision.options import VisionOptions
from tunesmith_vision.towers import LiteTower, Tower
from tunesmith_vision.vlm import ModelTower

__all__ = ["Vision", "VisionTask", "open_table"]

PROJECTOR_FILE, VISION_FILE = "projector.safetensors", "vision.json"
TRAINED_TOWER_FILE = "tower.safetensors"
NO_ADAPTER = "TUNESMITH_PROJECTOR"
_LOAD_ERRORS = (OSError, LookupError, RuntimeError, TypeError, ValueError, SafetensorError)
CARD = """---
tags: [tunesmith, vision]
---

A projector of images (`projector.safetensors`) and adapters or weights of the language model, made
with tunesmith by `vision`. `vision.json` names the tower; `tower.safetensors` has its weights, if
they were trained. The README of tunesmith-vision shows how to load them with transformers and peft
alone.
"""


def open_table(model: Path, options: VisionOptions) -> FeatureTable:
    """Return the table of a base model's images, with the tower that the options choose.

    Raises:
        UsageError: the model was trained by ``vision``, so its tower is elsewhere.
    """
    if (model / VISION_FILE).is_file():
        raise UsageError(
            f"{model}: was trained with a tower that is not in this folder",
            hint="write a complete model with `tunesmith vision join`, and divide that",
        )
    has_tower = (model / VISION_FOLDER).is_dir() and options.tower == "auto"
    tower: Tower = ModelTower(model) if has_tower else LiteTower()
    return FeatureTable(tower, int(load_config(model).get_text_config().vocab_size))


def add_images(model: Any, table: FeatureTable, projector: nn.Module) -> None:
    """Put the embeddings of images in front of a language model, in place."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    projector.to(base.device)
    base.set_input_embeddings(ImageEmbedding(base.get_input_embeddings(), projector, table))
    table.tower.prepare_language_model(base, table)


def new_projector(model: Any, table: FeatureTable, seed: int) -> nn.Module:
    """Return the projector that training starts from."""
    with torch.no_grad():
        weight_VD = model.get_input_embeddings().weight
        scale = float(weight_VD.float().pow(2).mean().sqrt())
    return table.tower.build_projector(weight_VD.shape[1], scale, seed)


class Vision:
    """Trains a language model, a projector and a tower on conversations with images."""

    def __init__(self, options: VisionOptions) -> None:
        self.options = options

    def train(self, job: Job[Any]) -> Artifact:
        """Encode all images unless the tower is trained, train, and write what has changed."""
        table = open_table(job.model, job.config)
        parts = [[as_record(r, table) for r in part] for part in (job.train, job.validation)]
        options: VisionOptions = job.config
        if not options.train_tower:
            with run_phase(job.emit, "encoding images", table.count, "images") as progress:
                for number in range(table.count):
                    table.features(number)
                    progress(number + 1)
        job = replace(job, train=parts[0], validation=parts[1])
        ratios = {
            part: rate
            for part, rate, is_trained in (
                (".projector.", options.projector_rate, options.train_projector),
                (".tower.", options.tower_rate, options.train_tower),
            )
            if is_trained and rate != 1
        }
        if ratios:
            rates = Addition(build=lambda context: PartRates(context, ratios), table="rates")
            job = replace(job, additions=(*job.additions, rates))
        return train(job, VisionTask(table))

    def open(self, model: Path, artifact: Path | None, *, device: str) -> TextModel:
        """Open the trained model; None: the base model, whose new projector is untrained."""
        torch_device = pick_device(device)
        table = open_table(model, self.options)
        is_full = artifact is not None and detect_artifact_format(artifact) == "model"
        base = load_model(
            artifact if artifact is not None and is_full else model,
            torch_device,
            pick_model_precision(model, torch_device, self.options.precision),
            packing=False,
            quantization=Quantization.from_options(self.options.quantization),
            fused_kernels=self.options.fused_kernels,
        )
        projector = new_projector(base.model, table, seed=0)
        adapted: nn.Module = base.model
        if artifact is not None:
            read_trained_parts(projector, table.tower, artifact)
            if self.options.language == "lora":
                adapted = attach_adapter(base, artifact, fused_kernels=self.options.fused_kernels)
        add_images(adapted, table, projector.eval())
        template = ImageTemplate.of(Template.from_options(base.tokenizer, self.options), table)
        return TorchTextModel(adapted, template, torch_device)


class VisionTask(SupervisedTask):
    """Supervised training on rows whose images have signs and virtual ids."""

    def __init__(self, table: FeatureTable) -> None:
        self.table = table

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> SupervisedData:
        """Return the training rows; rows over the limit are skipped, never cut."""
        return super().tokenize(job, ImageEncoder.add_to(template, self.table), limit)

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Choose the weights of the language model to train, then add the embeddings of images."""
        options: VisionOptions = job.config
        self.projector = new_projector(base.model, self.table, job.seed)
        self.projector.requires_grad_(options.train_projector)
        if options.language == "frozen":
            base.model.requires_grad_(False)
            adapted = AdaptedModel(base.model, base, precision, "adapter", {"weights": "none"})
        else:
            adapted = super().adapt(base, precision, job, initial)
        if options.train_tower:
            self.table.tower.start_training(base.model.device)
        add_images(adapted.model, self.table, self.projector)
        details = {
            "tower": self.table.tower.name,
            "tower_weights": "trained" if options.train_tower else "kept",
            "images": self.table.count,
            "image_tokens": self.table.rows,
            "projector": "trained" if options.train_projector else "kept",
        }
        return replace(adapted, details={**adapted.details, **details})

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        """Return the objective, and write the projector beside the adapter."""
        quantization = session.options.quantization
        bits = quantization.bits if quantization else None
        return replace(super().prepare(session, data), write_extra=partial(self._write, bits))

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> NextTokenObjective | None:
        """Return the objective over the examples of these records."""
        template = ImageEncoder.add_to(session.template, self.table)
        session = replace(session, template=template)
        return super().objective_over(session, prepared, records, name)

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return what is saved of the language model; if it is frozen, a config that says so."""
        adapted = super().finalize(session)
        if session.options.language == "frozen":
            return replace(adapted, model=_NoAdapter())
        if adapted.format == "model":  # saved under the names of a plain language model
            adapted.model.set_input_embeddings(adapted.model.get_input_embeddings().text)
        return adapted

    def _write(self, bits: int | None, folder: Path) -> None:
        tensors = {n: t.detach().float().cpu() for n, t in self.projector.state_dict().items()}
        save_file(tensors, folder / PROJECTOR_FILE, metadata={"format": "pt"})
        tower = self.table.tower
        about = {"tower": tower.name, "digest": tower.base_digest, "quantization_bits": bits}
        if tower.is_trained:
            weights = {n: t.cpu().contiguous() for n, t in tower.module.state_dict().items()}
            save_file(weights, folder / TRAINED_TOWER_FILE, metadata={"format": "pt"})
        (folder / VISION_FILE).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(CARD, encoding="utf-8")


class _NoAdapter:
    """Stands for the adapter in an artifact that has only a projector."""

    def save_pretrained(self, folder: Path, *, save_embedding_layers: bool) -> None:
        """Write the config that marks the folder as one for the unchanged language model."""
        text = json.dumps({"peft_type": NO_ADAPTER})
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")


class PartRates(TrainingAddition):
    """Gives parts their own learning rates: scales their updates, with their weight decay."""

    def __init__(self, context: AdditionContext, ratios: Mapping[str, float]) -> None:
        """``ratios`` are multiples of the learning rate, by a part of the names of weights."""
        self.ratios = {
            name: ratio
            for part, ratio in ratios.items()
            for name in context.parameters
            if part in name
        }

    def transform_update(self, update: Update) -> None:
        """Multiply the step of each part by its ratio."""
        for name, ratio in self.ratios.items():
            before = update.before[name]
            update.after[name].sub_(before).mul_(ratio).add_(before)


def read_trained_parts(projector: nn.Module, tower: Tower, folder: Path) -> None:
    """Load a trained projector, and the tower if it was trained too, in place.

    Raises:
        IntegrityError: files are missing or damaged, or belong to another tower.
    """
    try:
        about = read_json_object(folder / VISION_FILE)
        if about["digest"] != tower.base_digest:
            raise ValueError(f"trained with another tower: {about['tower']}")
        projector.load_state_dict(_read_finite(folder / PROJECTOR_FILE))
        if (folder / TRAINED_TOWER_FILE).is_file():
            tower.load_weights(_read_finite(folder / TRAINED_TOWER_FILE))
    except _LOAD_ERRORS as error:
        raise IntegrityError(
            f"{folder}: the projector or the tower cannot be used: {error!s:.200}",
            hint="use the base model and the tower of the training, or restore the files",
        ) from error


def _read_finite(file: Path) -> dict[str, Tensor]:
    tensors = load_file(file)
    if wrong := [name for name, tensor in tensors.items() if not tensor.isfinite().all()]:
        raise ValueError(f"{wrong[0]} has values that are not finite")
    return tensors
