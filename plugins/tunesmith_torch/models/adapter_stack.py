"""Stack LoRA adapters: train a fresh adapter on top of an earlier run's frozen adapter.

Training a fine-tuned policy further uses a *fresh* adapter over the frozen one::

    base  +  initial adapter (frozen)  +  policy adapter (trained)

At the first step, the policy equals the initial model. Switching the fresh adapter off later gives
the initial model back, which serves as the reference. The saved artifact is a single adapter for
the unchanged base model, because the sum of two low-rank updates is a low-rank update:
``B1 A1 + B2 A2 = [B1 B2] [A1; A2]``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import LoraConfig, PeftConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from tunesmith.errors import IntegrityError, UsageError
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapter_config import can_load_on_meta
from tunesmith_torch.models.adapters import (
    AdaptedModel,
    adapt_full,
    adapt_lora,
    adapter_details,
    build_lora_config,
    count_adapters,
)
from tunesmith_torch.models.artifacts import (
    attach_adapter,
    check_adapter_folder,
    check_loaded_adapter,
    convert_adapter_errors,
)
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation
from tunesmith_torch.models.quantization import weight_bytes
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.runtime.device import Precision

__all__ = ["adapt_model", "adapt_over_merged", "combine_with_initial", "reference_policy"]

INITIAL, POLICY = "default", "policy"
"""Adapter names that PEFT puts into parameter names: the frozen and the trained adapter."""
MERGED_ADAPTER_NAME = "folded"
"""Adapter name of a merged initial adapter that is loaded again, to be added to the trained one."""


def adapt_model(
    base: LoadedBase,
    precision: Precision,
    adaptation: Adaptation,
    *,
    initial_model: InitialModel | None,
    seed: int,
    fused_kernels: bool = True,
) -> AdaptedModel:
    """Prepare a model for training; its outputs start equal to those of the initial model.

    ``base`` is the loaded base model, or the loaded initial model if that is a full model rather
    than an adapter.

    Raises:
        UsageError: one of the two adapters is not a plain LoRA adapter, so they cannot be summed.
    """
    adapter = adaptation.adapter
    if initial_model is None or initial_model.format == "model":
        if adapter is None:
            return adapt_full(base, precision)
        adapted = adapt_lora(base, precision, adapter, seed, fused_kernels=fused_kernels)
        if adapter.changes_base:
            initial = _scaled_matrices(cast(PeftModel, adapted.model), INITIAL)
            adapted = replace(adapted, initial=initial)
    elif adapter is None:
        merged = attach_adapter(base, initial_model.path).merge_and_unload()
        return adapt_full(replace(base, model=merged), precision)
    else:
        adapted = _adapt_over_adapter(
            base, precision, adapter, initial_model, seed, fused_kernels=fused_kernels
        )
    if adaptation.quantization is None:
        return adapted
    stored = {"bits": adaptation.quantization.bits, "base_bytes": weight_bytes(base.model)}
    return replace(adapted, details={**adapted.details, **stored})


def _adapt_over_adapter(
    base: LoadedBase,
    precision: Precision,
    options: AdapterOptions,
    initial_model: InitialModel,
    seed: int,
    *,
    fused_kernels: bool,
) -> AdaptedModel:
    """Add the frozen initial adapter, and a fresh adapter to train."""
    config = build_lora_config(base.model, options, fused_kernels=fused_kernels)
    details = adapter_details(base.model, options)
    _refuse_not_summable(config, "technique.adapter")
    base.model.requires_grad_(False)
    model = attach_adapter(base, initial_model.path, fused_kernels=fused_kernels)
    _refuse_not_summable(model.peft_config[INITIAL], "technique.from")
    torch.manual_seed(seed)
    with peft_import.without_unused_bitsandbytes():
        model.add_adapter(POLICY, config, autocast_adapter_dtype=True)
    fused_lora.group_by_input(model)
    _activate_adapters(model, [INITIAL, POLICY])
    return AdaptedModel(
        model, base, precision, "adapter", {**details, **count_adapters(model, POLICY)}
    )


def adapt_over_merged(
    base: LoadedBase,
    precision: Precision,
    options: AdapterOptions,
    *,
    initial_model: InitialModel,
    seed: int,
    fused_kernels: bool = True,
) -> AdaptedModel:
    """Merge the initial adapter into the base and add a single fresh adapter.

    Use this for trainers that support only one adapter and disable it to compute the reference,
    such as TRL's. With two adapters, ``disable_adapter`` would give the plain base model.
    :func:`combine_with_initial` returns the adapter to save.

    Raises:
        UsageError: one of the two adapters is not a plain LoRA adapter, so they cannot be summed.
    """
    _refuse_not_summable(build_lora_config(base.model, options), "technique.adapter")
    model = attach_adapter(base, initial_model.path)
    _refuse_not_summable(model.peft_config[INITIAL], "technique.from")
    merged_base = replace(base, model=cast(Any, model).merge_and_unload())
    return adapt_lora(merged_base, precision, options, seed, fused_kernels=fused_kernels)


def combine_with_initial(adapted: AdaptedModel, initial_model: InitialModel) -> AdaptedModel:
    """Return a model trained after :func:`adapt_over_merged` as one adapter for the original base.

    The adapter is the sum of the initial adapter and the trained one.
    """
    model = cast(PeftModel, adapted.model)
    add_frozen_adapter(model, initial_model.path, MERGED_ADAPTER_NAME)
    names = (MERGED_ADAPTER_NAME, model.active_adapter)
    return _sum_adapters(adapted, model, [_scaled_matrices(model, name) for name in names])


@contextmanager
def reference_policy(adapted: AdaptedModel) -> Iterator[None]:
    """Inside the ``with`` block, turn an adapted model into the policy that training started from.

    Raises:
        UsageError: the initial weights no longer exist, because all weights are trained or the
            adapter's initialization has changed them.
    """
    model = adapted.model
    if not isinstance(model, PeftModel):
        raise UsageError(
            "a fully trained model has no reference policy",
            hint='set `adapt` to "lora" in the options of the technique or stage',
        )
    if adapted.initial is not None:
        raise UsageError(
            "adapter.init: this initialization changes the base model, which is needed unchanged",
            hint='set adapter.init = "default"',
        )
    if POLICY not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    with active_adapters(model, [INITIAL]):
        yield


@contextmanager
def active_adapters(model: PeftModel, names: list[str]) -> Iterator[None]:
    """Activate exactly these adapters inside the ``with`` block.

    The set of trainable parameters does not change.
    """
    tuner = cast(Any, model.base_model)
    before = list(tuner.active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        tuner.set_adapter(names)
        yield
    finally:
        # set_adapter also changes which parameters are trainable, so restore them.
        tuner.set_adapter(before)
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


def add_frozen_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Load another adapter from disk into a model that already has adapters.

    It is inactive except inside :func:`active_adapters`.

    Raises:
        IntegrityError: the tensors of the adapter do not match the model.
    """
    check_adapter_folder(folder, model.get_base_model())
    before = list(cast(Any, model.base_model).active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with peft_import.without_unused_bitsandbytes(), convert_adapter_errors(folder):
        model.load_adapter(
            str(folder),
            name,
            is_trainable=False,
            autocast_adapter_dtype=False,
            low_cpu_mem_usage=can_load_on_meta(PeftConfig.from_pretrained(str(folder))),
        )
    check_loaded_adapter(model, folder, name)
    dtype = model.get_base_model().dtype
    for full_name, parameter in model.named_parameters():
        if f".{name}." in full_name:
            parameter.data = parameter.data.to(dtype)
    cast(Any, model.base_model).set_adapter(before)
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def combine_adapters(adapted: AdaptedModel) -> AdaptedModel:
    """Return the trained model as one adapter for the unchanged base model.

    A policy is the sum of its two adapters. An adapter whose initial values were subtracted from
    the base weights W becomes its difference from them: ``W - B0 A0 + B A = W + [B, -B0] [A; A0]``.
    Other models are returned unchanged.
    """
    model = adapted.model
    if adapted.initial is not None:
        assert isinstance(model, PeftModel)
        subtracted = {name: (a_RD, -b_DR) for name, (a_RD, b_DR) in adapted.initial.items()}
        return _sum_adapters(adapted, model, [_scaled_matrices(model, INITIAL), subtracted])
    if not isinstance(model, PeftModel) or POLICY not in model.peft_config:
        return adapted
    return _sum_adapters(adapted, model, [_scaled_matrices(model, n) for n in (INITIAL, POLICY)])


def _sum_adapters(
    adapted: AdaptedModel, model: PeftModel, parts: Sequence[Mapping[str, tuple[Tensor, Tensor]]]
) -> AdaptedModel:
    """Return the model with the sum of two adapters as its only adapter."""
    total_rank = sum(max(len(a_RD) for a_RD, _ in part.values()) for part in parts)
    modules = sorted({name for part in parts for name in part})
    state: dict[str, Tensor] = {}
    for name in modules:
        matrices = [part[name] for part in parts if name in part]
        a_RD = torch.cat([a for a, _ in matrices], 0)
        b_DR = torch.cat([b for _, b in matrices], 1)
        # If a module has only one of the two adapters, zeros pad it to the common rank.
        padding = total_rank - a_RD.shape[0]
        state[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a_RD, (0, 0, 0, padding))
        state[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b_DR, (0, padding))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=total_rank,
        lora_alpha=total_rank,  # a scale of 1: the matrices already contain the scales
        target_modules=[name.removeprefix("base_model.model.") for name in modules],
        fan_in_fan_out=model.peft_config[INITIAL].fan_in_fan_out,
        bias="none",
    )
    base_model = cast(Any, model).unload()
    with ignore_deprecation(), peft_import.without_unused_bitsandbytes():
        combined = get_peft_model(base_model, config, autocast_adapter_dtype=True)
    loaded = set_peft_model_state_dict(combined, state)
    if loaded.unexpected_keys:
        key = loaded.unexpected_keys[0]
        raise IntegrityError(f"the two adapters cannot be combined: PEFT does not expect {key}")
    return replace(adapted, model=combined)


def _activate_adapters(model: PeftModel, names: list[str]) -> None:
    """Activate these adapters and make only the policy's parameters trainable."""
    cast(Any, model.base_model).set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{POLICY}." in name)


def _scaled_matrices(model: PeftModel, adapter: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of every module with this adapter, in fp32, with B multiplied by the scale."""
    config = model.peft_config[adapter]
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    names = [name.removesuffix(".lora_A.weight") for name in state if ".lora_A." in name]
    pairs = {name: [state[f"{name}.lora_{x}.weight"].float() for x in "AB"] for name in names}
    return {name: (a_RD.clone(), b_DR * scale) for name, (a_RD, b_DR) in pairs.items()}


def _refuse_not_summable(config: LoraConfig, where: str) -> None:
    """Raise an error unless the adapter is a plain low-rank update.

    DoRA divides by a norm, and fully trained modules are not low-rank, so neither can be added. For
    parameters of experts, the names that PEFT writes for a sum differ from those that it reads.
    """
    plain = not (
        config.use_dora
        or config.modules_to_save
        or config.rank_pattern
        or getattr(config, "target_parameters", None)
        or getattr(config, "trainable_token_indices", None)
        or config.init_lora_weights in ("pissa", "olora")
    )
    if config.peft_type != "LORA" or not plain or config.alpha_pattern or config.bias != "none":
        raise UsageError(
            f"{where}: only plain LoRA adapters can be added together; "
            "this one uses DoRA, modules_to_save, target_parameters, trained tokens, rank or alpha "
            "patterns, a bias, or an initialization that changes the base model",
            hint="merge the earlier adapter into its base model and set `from` to that folder",
        )
