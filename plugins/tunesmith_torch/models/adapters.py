"""Prepare a base model for training: choose the weights that move, all of them or LoRA adapters.

A technique combines this choice with an objective, which decides what the weights move towards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapter_targets import resolve_modules_to_save
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import Precision


@dataclass(frozen=True)
class AdaptedModel:
    """A model that is ready for training."""

    model: PreTrainedModel | PeftModel
    base: LoadedBase
    precision: Precision
    format: Literal["adapter", "model"]
    details: JSON
    """Facts about the adaptation for reports: what was adapted, rank, target modules."""

    @property
    def named_trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that training changes; tied parameters once."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @property
    def num_parameters(self) -> int:
        """Number of parameters of the base model, adapters included."""
        # A packed 4-bit tensor has fewer elements than weights; transformers corrects for that.
        return int(self.base.model.num_parameters())

    @property
    def num_trainable_parameters(self) -> int:
        """Number of parameters that training changes."""
        return sum(parameter.numel() for _, parameter in self.named_trainable_parameters)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the forward pass.

        Adapters are stored in fp32 and compute in the base model's format.
        """
        device = self.base.model.device.type
        mixed = self.precision.dtype != torch.float32 and self.format == "adapter"
        return torch.autocast(device, dtype=self.precision.dtype, enabled=mixed)


def adapt_full(base: LoadedBase, precision: Precision) -> AdaptedModel:
    """Make all weights trainable (full fine-tuning)."""
    base.model.requires_grad_(True)
    return AdaptedModel(base.model, base, precision, "model", {"weights": "all"})


def adapt_lora(
    base: LoadedBase,
    precision: Precision,
    options: AdapterOptions,
    seed: int,
    *,
    fused_kernels: bool = True,
) -> AdaptedModel:
    """Add low-rank updates in fp32 to chosen matrices and train only those.

    Hu et al. 2021, LoRA, section 4.1. The random seed is set directly before the adapters are
    initialized, so that their values do not depend on what ran before.

    Raises:
        UsageError: a name fits no module, or a target shares its weight with another module.
    """
    config = build_lora_config(base.model, options, fused_kernels=fused_kernels)
    torch.manual_seed(seed)
    base.model.requires_grad_(False)
    with ignore_deprecation(), peft_import.without_unused_bitsandbytes():
        model = get_peft_model(base.model, config, autocast_adapter_dtype=True)
    fused_lora.group_by_input(model)
    names = [n for n, m in model.named_modules() if isinstance(m, BaseTunerLayer)]
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise AssertionError(f"adapter {name} is {parameter.dtype}, not float32")
    details = {
        "weights": "lora",
        "rank": options.rank,
        "targets": sorted({name.rsplit(".", 1)[-1] for name in names}),
        "adapted_modules": len(names),
    }
    return AdaptedModel(model, base, precision, "adapter", details)


def build_lora_config(
    model: PreTrainedModel, options: AdapterOptions, *, fused_kernels: bool = True
) -> LoraConfig:
    """Return the PEFT config of the adapter that the options ask for, for this model.

    Raises:
        UsageError: a name fits no module, or a target shares its weight with another module.
    """
    target_modules = _resolve_target_modules(model, options.target_modules)
    _refuse_tied_targets(model, [*target_modules])
    modules_to_save = resolve_modules_to_save(model, options.modules_to_save)
    saved_names = {name.rsplit(".", 1)[-1] for name in modules_to_save}
    tie_weights = model.config.get_text_config().tie_word_embeddings and bool(
        saved_names & _embedding_names(model)
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=target_modules,
        modules_to_save=modules_to_save or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        ensure_weight_tying=tie_weights,
        bias="none",
    )
    if fused_kernels:
        fused_lora.enable_fused_lora(config, model)
    return config


def _resolve_target_modules(
    model: PreTrainedModel, target_modules: Literal["all-linear"] | Sequence[str]
) -> list[str]:
    """Return the target names for PEFT, after checking that each matches a module."""
    linear_names = _linear_layer_names(model)
    if target_modules == "all-linear":
        if not linear_names:
            raise UsageError(
                "technique.adapter.target_modules: the model has no linear layer outside its head"
            )
        return sorted(linear_names)
    names = [name for name, _ in model.named_modules()]
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UsageError(
                f'technique.adapter.target_modules: no module is named "{target}"',
                hint=f"linear layers of this model: {', '.join(sorted(linear_names))}",
            )
    return list(target_modules)


def _linear_layer_names(model: PreTrainedModel) -> set[str]:
    """Return the last parts of the names of all linear layers except the output head."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _refuse_tied_targets(model: PreTrainedModel, target_modules: Sequence[str]) -> None:
    """Refuse a target that shares its weight with another module.

    An adapter changes one of the two only, so merging or saving would lose or duplicate it.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embeddings.weight is not head.weight:
        return
    shared = _embedding_names(model)
    for target in target_modules:
        if target.rsplit(".", 1)[-1] in shared:
            raise UsageError(
                f'technique.adapter.target_modules: "{target}" shares its weight with another '
                "module, so a LoRA adapter on it would be lost when the model is merged or saved",
                hint=f'train the full module instead: adapter.modules_to_save = ["{target}"]',
            )


def _embedding_names(model: PreTrainedModel) -> set[str]:
    """Return the last parts of the names of the input embeddings and of the output head."""
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    return {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if m in embeddings}
