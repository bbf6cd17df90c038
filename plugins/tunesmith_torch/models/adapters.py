"""Which weights move: all of them, or low-rank adapters beside frozen ones.

One half of a technique. The other half is the objective, what the weights move towards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import UsageError
from tunesmith.events import JSON
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.loading import Base, old_name_is_known
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import Precision


@dataclass(frozen=True)
class Adapted:
    """A model made ready for training."""

    model: PreTrainedModel | PeftModel
    base: Base
    precision: Precision
    format: Literal["adapter", "model"]
    details: JSON
    """What was adapted, for the record."""

    @property
    def trainable(self) -> list[tuple[str, nn.Parameter]]:
        """Names and parameters that training changes; tied ones once."""
        return [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]

    @property
    def parameters(self) -> int:
        """All parameters of the model, adapters included."""
        # Packed weights are fewer numbers than they stand for; transformers knows how many.
        return int(self.base.model.num_parameters())

    @property
    def trainable_parameters(self) -> int:
        return sum(parameter.numel() for _, parameter in self.trainable)

    def arithmetic(self) -> torch.autocast:
        """The context of the forward pass: fp32 adapters compute in the base's format."""
        device = self.base.model.device.type
        mixed = self.precision.dtype != torch.float32 and self.format == "adapter"
        return torch.autocast(device, dtype=self.precision.dtype, enabled=mixed)


def adapt_all(base: Base, precision: Precision) -> Adapted:
    """Every weight moves (full fine-tuning)."""
    base.model.requires_grad_(True)
    return Adapted(base.model, base, precision, "model", {"weights": "all"})


def adapt_lora(base: Base, precision: Precision, options: LoraOptions, seed: int) -> Adapted:
    """Low-rank updates of chosen matrices move, in fp32 (Hu et al. 2021, section 4.1).

    The seed is set here, right before the adapters get their random half, so that they do not
    depend on what ran before.

    Raises:
        UsageError: no module matches the targets, or a target shares its weight with another.
    """
    config = lora_config(base.model, options)
    torch.manual_seed(seed)
    base.model.requires_grad_(False)
    with old_name_is_known():
        model = get_peft_model(base.model, config, autocast_adapter_dtype=True)
    fused_lora.introduce(model)
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
    return Adapted(model, base, precision, "adapter", details)


def lora_config(model: PreTrainedModel, options: LoraOptions) -> LoraConfig:
    """The adapter that the options ask for, for this model.

    Raises:
        UsageError: no module matches the targets, or a target shares its weight with another.
    """
    target_modules = _resolve(model, options.target_modules)
    _refuse_tied(model, [*target_modules])
    tied = bool(options.modules_to_save) and model.config.get_text_config().tie_word_embeddings
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=options.rank,
        lora_alpha=options.alpha,
        lora_dropout=options.dropout,
        target_modules=target_modules,
        modules_to_save=options.modules_to_save or None,
        use_rslora=options.use_rslora,
        use_dora=options.use_dora,
        ensure_weight_tying=tied,
        bias="none",
    )
    if options.fused_kernels:
        fused_lora.use(config, model)
    return config


def _resolve(
    model: PreTrainedModel, target_modules: Literal["all-linear"] | Sequence[str]
) -> list[str]:
    """Target names as peft wants them; every one must match something."""
    linear = _linear_names(model)
    if target_modules == "all-linear":
        if not linear:
            raise UsageError(
                "technique.target_modules: the model has no linear layer outside its head"
            )
        return sorted(linear)
    names = [name for name, _ in model.named_modules()]
    for target in target_modules:
        if not any(name == target or name.endswith(f".{target}") for name in names):
            raise UsageError(
                f'technique.target_modules: no module is called "{target}"',
                hint=f"linear layers of this model: {', '.join(sorted(linear))}",
            )
    return list(target_modules)


def _linear_names(model: PreTrainedModel) -> set[str]:
    """Last parts of the names of all linear layers, the output head left out."""
    head = model.get_output_embeddings()
    return {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }


def _refuse_tied(model: PreTrainedModel, target_modules: Sequence[str]) -> None:
    """An adapter on one of two modules that share a weight cannot be merged or saved faithfully."""
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embeddings.weight is not head.weight:
        return
    shared = {n.rsplit(".", 1)[-1] for n, m in model.named_modules() if m in (embeddings, head)}
    for target in target_modules:
        if target.rsplit(".", 1)[-1] in shared:
            raise UsageError(
                f'technique.target_modules: "{target}" shares its weight with another module, '
                "so a LoRA adapter on it would be lost when the model is merged or saved",
                hint=f'train it whole instead: modules_to_save = ["{target}"]',
            )
