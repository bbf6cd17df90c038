"""Prepare a base model for training: make all weights trainable, or add LoRA adapters.

A technique combines this choice of weights with an objective.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith.events import JSON
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapter_targets import (
    AdapterTargets,
    experts_without_adapter,
    freeze_other_modalities,
)
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.runtime.device import Precision

__all__ = ["AdaptedModel", "adapt_full", "adapt_lora", "adapt_peft"]


@dataclass(frozen=True)
class AdaptedModel:
    """A loaded model whose trainable weights are chosen: adapters, or all of them."""

    model: PreTrainedModel | PeftModel
    """The model to train; only parameters that require a gradient are trained."""
    base: LoadedBase
    """The base model; its modules are parts of ``model``."""
    precision: Precision
    """The compute dtype, and the reason for it."""
    format: Literal["adapter", "model"]
    """The weights to save: only the adapter, or all."""
    details: JSON
    """Facts about the adaptation for reports: what was adapted, rank, target modules."""
    initial: Mapping[str, tuple[Tensor, Tensor]] | None = None
    """The initial adapter's A and scaled B by module, if it was subtracted from the base weights;
    None if the base weights are unchanged."""

    @property
    def named_trainable_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """The parameters that training changes, by name; tied parameters are listed once."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @property
    def num_parameters(self) -> int:
        """Number of parameters in the base model, including adapters."""
        # A packed 4-bit tensor has fewer elements than weights; transformers corrects for that.
        return int(self.base.model.num_parameters())

    @property
    def num_trainable_parameters(self) -> int:
        """Number of parameters that training changes."""
        return sum(parameter.numel() for _, parameter in self.named_trainable_parameters)

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the forward pass.

        It makes adapters, which are stored in fp32, compute in the base model's dtype.
        """
        device = self.base.model.device.type
        mixed = self.precision.dtype != torch.float32 and self.format == "adapter"
        return torch.autocast(device, dtype=self.precision.dtype, enabled=mixed)


def adapt_full(base: LoadedBase, precision: Precision) -> AdaptedModel:
    """Make all weights that text passes through trainable (full fine-tuning)."""
    base.model.requires_grad_(True)
    frozen = freeze_other_modalities(base.model)
    details: JSON = {"weights": "all", **({"frozen": frozen} if frozen else {})}
    return AdaptedModel(base.model, base, precision, "model", details)


def adapt_lora(
    base: LoadedBase,
    precision: Precision,
    options: AdapterOptions,
    seed: int,
    *,
    fused_kernels: bool = True,
) -> AdaptedModel:
    """Add low-rank updates in fp32 to the chosen matrices, and train only these.

    See Hu et al. 2021, LoRA, section 4.1. The random seed is set right before the adapters are
    initialized, so their values do not depend on earlier computations.

    Raises:
        UsageError: a name matches no module, or a target shares its weight with another module.
    """
    config = build_lora_config(base.model, options, fused_kernels=fused_kernels)
    adapted = adapt_peft(base, precision, config, seed, adapter_details(base.model, options))
    assert isinstance(adapted.model, PeftModel)
    fused_lora.group_by_input(adapted.model)
    return replace(adapted, details={**adapted.details, **count_adapters(adapted.model, "default")})


def adapt_peft(
    base: LoadedBase, precision: Precision, config: PeftConfig, seed: int, details: JSON
) -> AdaptedModel:
    """Add an adapter of any kind that PEFT supports, such as IA3, and train only that, in fp32.

    The weights of the base model are frozen. The random seed is set right before the adapter is
    initialized. ``details`` are facts for reports, such as the kind of adapter under ``weights``.
    Import PEFT after this module: see :mod:`tunesmith_torch.runtime.peft_import`.

    Raises:
        ValueError: PEFT rejects the config, for example because its names match no module.
    """
    torch.manual_seed(seed)
    base.model.requires_grad_(False)
    with ignore_deprecation(), peft_import.without_unused_bitsandbytes():
        model = get_peft_model(base.model, config, autocast_adapter_dtype=True)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()  # PEFT converts most kinds, but not all
    return AdaptedModel(model, base, precision, "adapter", details)


def build_lora_config(
    model: PreTrainedModel, options: AdapterOptions, *, fused_kernels: bool = True
) -> LoraConfig:
    """Return the PEFT config of the adapter that the options describe, for this model.

    Raises:
        UsageError: a name matches no module, or a target shares its weight with another module.
    """
    targets = AdapterTargets.resolve(model, options)
    saved_names = {name.rsplit(".", 1)[-1] for name in targets.modules_to_save}
    is_tied = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    tie_weights = is_tied and bool(
        saved_names & _embedding_names(model) or options.trainable_tokens
    )
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        modules_to_save=targets.modules_to_save or None,
        fan_in_fan_out=targets.are_conv1d,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        init_lora_weights=True if options.init == "default" else options.init,
        rank_pattern=options.rank_pattern,
        alpha_pattern=options.alpha_pattern,
        layers_to_transform=options.layers or None,
        trainable_token_indices=options.trainable_tokens or None,
        ensure_weight_tying=tie_weights,
        bias="none",
    )
    if fused_kernels:
        fused_lora.register_fused_lora(config, model)
    return config


def adapter_details(model: PreTrainedModel, options: AdapterOptions) -> JSON:
    """Return facts for reports about the adapters that the options describe.

    ``not_adapted`` lists the experts that do not get an adapter; it is absent if all get one.
    """
    targets = AdapterTargets.resolve(model, options)
    details: JSON = {"weights": "lora", "rank": options.rank}
    if targets.modules_to_save:
        details["modules_to_save"] = targets.modules_to_save
    if experts := experts_without_adapter(model, targets):
        details["not_adapted"] = experts
    return details


def count_adapters(model: PeftModel, adapter: str) -> JSON:
    """Return how many matrices this adapter changes, and their names within a layer."""
    names = list(_adapted_names(model, adapter))
    return {"targets": sorted(set(names)), "adapted_modules": len(names)}


def _adapted_names(model: PeftModel, adapter: str) -> Iterator[str]:
    """Yield the last part of the name of each adapted module.

    For a parameter, yield its name with that of its module.
    """
    for full_name, module in model.named_modules():
        if not isinstance(module, LoraLayer):
            continue
        if adapter not in module.lora_A and adapter not in module.lora_embedding_A:
            continue
        name = full_name.replace(".base_layer", "").rsplit(".", 1)[-1]
        is_stacked = isinstance(module, ParamWrapper) and module.parameter_name != "weight"
        yield f"{name}.{module.parameter_name}" if is_stacked else name


def _embedding_names(model: PreTrainedModel) -> set[str]:
    """Return the last part of the names of the input embeddings and the output head."""
    embeddings = (model.get_input_embeddings(), model.get_output_embeddings())
    return {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if m in embeddings}
