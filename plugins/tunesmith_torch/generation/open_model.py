"""Open base models and trained models from disk as text models."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from tunesmith.contracts import TextModel
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.kernels.packed_linear import pack_linears
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.initial_model import adapter_base_folder
from tunesmith_torch.models.loading import pick_model_precision
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.device import pick_device
from tunesmith_torch.runtime.malloc import keep_freed_memory

__all__ = ["open_text_model", "open_trained_model"]


def open_trained_model(
    model: Path, artifact: Path | None, *, device: str, options: TrainingOptions
) -> TextModel:
    """Open a model trained with these options, or the base model if ``artifact`` is None.

    An adapter that was trained on a full initial model is loaded onto that model.

    Raises:
        UsageError: the adapter's initial model no longer exists.
    """
    if artifact is not None and artifacts.detect_artifact_format(artifact) == "adapter":
        model = adapter_base_folder(model, artifact, options)
    return open_text_model(model, artifact, device=device, options=options)


def open_text_model(
    model: Path, artifact: Path | None, *, device: str, options: TrainingOptions
) -> TextModel:
    """Load the base model, or the model trained from it, from disk."""
    keep_freed_memory()
    torch_device = pick_device(device)
    adapter = artifact is not None and artifacts.detect_artifact_format(artifact) == "adapter"
    folder = model if adapter or artifact is None else artifact
    precision = pick_model_precision(folder, torch_device, options.precision)
    base = load_model(
        folder,
        torch_device,
        precision,
        packing=False,  # scoring pads rows, and generation uses its own attention
        quantization=Quantization.from_options(options.adaptation.quantization),
        fused_kernels=options.fused_kernels,
    )
    adapted: nn.Module = base.model
    if adapter and artifact is not None:
        adapted = artifacts.attach_adapter(base, artifact, fused_kernels=options.fused_kernels)
    if options.fused_kernels:
        pack_linears(adapted)
    template = Template.from_options(base.tokenizer, options)
    # An adapter is merged during generation only, so its prefix has other bits than in scoring.
    return TorchTextModel(adapted, template, torch_device, keeps_prefix=not adapter)
