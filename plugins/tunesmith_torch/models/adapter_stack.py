"""Stack LoRA adapters: train a fresh adapter on top of the frozen adapter of an earlier run.

A policy that was fine-tuned before is trained further with a *fresh* adapter over the frozen one::

    base  +  initial adapter (frozen)  +  policy adapter (trained)

At its first step the policy equals the initial model, and switching the fresh adapter off gives the
initial model again, which serves as the reference. The saved artifact is one adapter for the
unchanged base model, because the sum of two low-rank updates is a low-rank update: ``B1 A1 + B2 A2
= [B1 B2] [A1; A2]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from tunesmith_torch.runtime import peft_import  # must precede peft

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import verify_folder
from tunesmith.storage.manifest import MANIFEST
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import AdaptedModel, adapt_full, adapt_lora, build_lora_config
from tunesmith_torch.models.artifacts import artifact_format, attach_adapter, check_adapter
from tunesmith_torch.models.loading import LoadedBase, ignore_deprecation
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import Precision

INITIAL, POLICY = "default", "policy"
"""PEFT's names of the frozen adapter and of the trained one. They occur in parameter names."""
MERGED = "folded"
"""Name under which an initial adapter that was merged into the base is loaded for adding up."""


@dataclass(frozen=True)
class InitialModel:
    """The artifact of an earlier run that training begins with."""

    path: Path
    format: Literal["adapter", "model"]

    @classmethod
    def find(cls, location: str, stage: str = "") -> InitialModel:
        """Return the artifact in a run folder, or the artifact folder itself.

        In a run with stages, the artifact of ``stage`` is taken, or else that of the policy or of
        the supervised stage.

        Raises:
            UsageError: there is none.
            IntegrityError: its files differ from its manifest.
        """
        folder = Path(location)
        folders = [folder, *(folder / name for name in (stage or "policy", "supervised"))]
        for candidate in (parent / name for parent in folders for name in ("", "adapter", "model")):
            names = ("adapter_config.json", "config.json")
            if any((candidate / name).is_file() for name in names):
                problems = verify_folder(candidate) if (candidate / MANIFEST).is_file() else []
                if problems:
                    raise IntegrityError(f"{candidate}: {problems[0]}")
                return cls(candidate, artifact_format(candidate))
        raise UsageError(
            f"technique.from: no adapter and no model in {folder}",
            hint="name a run folder whose run has finished, or the adapter or model folder itself",
        )


def base_folder(model: Path, initial_model: InitialModel | None) -> Path:
    """Return the folder to load first: a fully trained initial model, or else the base model."""
    return (
        initial_model.path
        if initial_model is not None and initial_model.format == "model"
        else model
    )


def load_policy_base(
    folder: Path,
    device: torch.device,
    precision: Precision,
    packing: bool,
    quantization: Quantization | None = None,
) -> LoadedBase:
    """Load a base model; with ``packing`` its attention takes packed rows and shared prompts."""
    return load_model(folder, device, precision, packing=packing, quantization=quantization)


def policy_quantization(options: PolicyOptions) -> Quantization | None:
    """Return how the options store the base model; None: not quantized."""
    if options.adapt != "qlora":
        return None
    return Quantization(options.bits, options.double_quantization)


def adapt_policy(
    base: LoadedBase,
    precision: Precision,
    options: LoraOptions,
    *,
    trained_weights: Literal["lora", "full"],
    initial_model: InitialModel | None,
    seed: int,
) -> AdaptedModel:
    """Prepare the policy for training; until its first step it equals the initial model.

    Raises:
        UsageError: the initial adapter, or the one to be trained, cannot be added to another.
    """
    if initial_model is None or initial_model.format == "model":
        if trained_weights == "full":
            return adapt_full(base, precision)
        return adapt_lora(base, precision, options, seed)
    if trained_weights == "full":
        merged = attach_adapter(base, initial_model.path).merge_and_unload()
        return adapt_full(replace(base, model=merged), precision)
    config = build_lora_config(base.model, options)
    _refuse_not_summable(config, "technique")
    base.model.requires_grad_(False)
    model = attach_adapter(base, initial_model.path, fused_kernels=options.fused_kernels)
    _refuse_not_summable(model.peft_config[INITIAL], "technique.from")
    torch.manual_seed(seed)
    with peft_import.without_unused_bitsandbytes():
        model.add_adapter(POLICY, config, autocast_adapter_dtype=True)
    fused_lora.group_by_input(model)
    _activate_adapters(model, [INITIAL, POLICY])
    details = {"weights": "lora", "rank": options.rank, "start": str(initial_model.path)}
    return AdaptedModel(model, base, precision, "adapter", details)


def adapt_over_merged(
    base: LoadedBase,
    precision: Precision,
    options: LoraOptions,
    *,
    initial_model: InitialModel,
    seed: int,
) -> AdaptedModel:
    """Merge the initial adapter into the base and add a single fresh adapter.

    For trainers that support one adapter only and compute the reference by disabling it, such as
    TRL's: with two adapters, ``disable_adapter`` would give the plain base model.
    :func:`combine_with_initial` returns the adapter to save.

    Raises:
        UsageError: the initial adapter, or the one to be trained, cannot be added to another.
    """
    _refuse_not_summable(build_lora_config(base.model, options), "technique")
    model = attach_adapter(base, initial_model.path)
    _refuse_not_summable(model.peft_config[INITIAL], "technique.from")
    merged_base = replace(base, model=cast(Any, model).merge_and_unload())
    adapted = adapt_lora(merged_base, precision, options, seed)
    return replace(adapted, details={**adapted.details, "start": str(initial_model.path)})


def combine_with_initial(adapted: AdaptedModel, initial_model: InitialModel) -> AdaptedModel:
    """Return a trained result of :func:`adapt_over_merged` as one adapter for the original base."""
    model = cast(PeftModel, adapted.model)
    add_frozen_adapter(model, initial_model.path, MERGED)
    return _sum_adapters(adapted, model, (MERGED, model.active_adapter))


@contextmanager
def reference_policy(adapted: AdaptedModel) -> Iterator[None]:
    """Turn an adapted model into the policy that training began with, inside the ``with`` block.

    Raises:
        UsageError: all weights are trained, so the initial weights no longer exist.
    """
    model = adapted.model
    if not isinstance(model, PeftModel):
        raise UsageError("a fully trained model has no reference policy", hint='set adapt = "lora"')
    if POLICY not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    with active_adapters(model, [INITIAL]):
        yield


@contextmanager
def active_adapters(model: PeftModel, names: list[str]) -> Iterator[None]:
    """Activate exactly these adapters inside the ``with`` block; trainable parameters stay
    trainable.
    """
    tuner = cast(Any, model.base_model)
    before = list(tuner.active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        tuner.set_adapter(names)
        yield
    finally:
        # set_adapter also changes which parameters are trainable: restore that.
        tuner.set_adapter(before)
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


def add_frozen_adapter(model: PeftModel, folder: Path, name: str) -> None:
    """Load an adapter from disk next to those that a model has.

    It is inactive except inside :func:`active_adapters`.

    Raises:
        IntegrityError: the adapter lacks tensors of the model, or has tensors unknown to it.
    """
    before = list(cast(Any, model.base_model).active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    with peft_import.without_unused_bitsandbytes():
        model.load_adapter(str(folder), name, is_trainable=False, autocast_adapter_dtype=False)
    check_adapter(model, folder, name)
    dtype = model.get_base_model().dtype
    for full_name, parameter in model.named_parameters():
        if f".{name}." in full_name:
            parameter.data = parameter.data.to(dtype)
    cast(Any, model.base_model).set_adapter(before)
    model.requires_grad_(False)
    for parameter in trained:
        parameter.requires_grad_(True)


def find_adapter_base(adapter: Path, model: Path) -> Path:
    """Return the folder of the weights that an adapter was trained on, or ``model`` if unknown."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    named = Path(config.get("base_model_name_or_path") or "")
    # A run folder that was moved still contains the model of its first stage.
    moved = adapter.parent.parent / named.parent.name / named.name
    for folder in (named, moved):
        if (folder / "config.json").is_file():
            return folder
    return model


def combine_adapters(adapted: AdaptedModel) -> AdaptedModel:
    """Return the policy with its two adapters combined into one for the unchanged base model.

    Other models are returned unchanged.
    """
    model = adapted.model
    if not isinstance(model, PeftModel) or POLICY not in model.peft_config:
        return adapted
    return _sum_adapters(adapted, model, (INITIAL, POLICY))


def _sum_adapters(adapted: AdaptedModel, model: PeftModel, names: tuple[str, str]) -> AdaptedModel:
    """Return the model with the sum of two adapters as its only adapter."""
    parts = [_scaled_matrices(model, name) for name in names]
    total_rank = sum(model.peft_config[name].r for name in names)
    modules = sorted({name for part in parts for name in part})
    state: dict[str, Tensor] = {}
    for name in modules:
        matrices = [part[name] for part in parts if name in part]
        a_RD = torch.cat([a for a, _ in matrices], 0)
        b_DR = torch.cat([b for _, b in matrices], 1)
        # A module with one of the two adapters only is padded with zeros to the common rank.
        padding = total_rank - a_RD.shape[0]
        state[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a_RD, (0, 0, 0, padding))
        state[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b_DR, (0, padding))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=total_rank,
        lora_alpha=total_rank,  # the scales are in the matrices already
        target_modules=[name.removeprefix("base_model.model.") for name in modules],
        bias="none",
    )
    base_model = cast(Any, model).unload()
    with ignore_deprecation(), peft_import.without_unused_bitsandbytes():
        combined = get_peft_model(base_model, config, autocast_adapter_dtype=True)
    loaded = set_peft_model_state_dict(combined, state)
    if loaded.unexpected_keys:
        raise IntegrityError(f"adapters cannot be added up: {loaded.unexpected_keys[0]}")
    return replace(adapted, model=combined)


def _activate_adapters(model: PeftModel, names: list[str]) -> None:
    """Activate these adapters and make only the policy's parameters trainable."""
    cast(Any, model.base_model).set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{POLICY}." in name)


def _scaled_matrices(model: PeftModel, adapter: str) -> dict[str, tuple[Tensor, Tensor]]:
    """Return A and B of every module with this adapter, in fp32, the scale multiplied into B."""
    config = model.peft_config[adapter]
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    names = [name.removesuffix(".lora_A.weight") for name in state if ".lora_A." in name]
    pairs = {name: [state[f"{name}.lora_{x}.weight"].float() for x in "AB"] for name in names}
    return {name: (a_RD, b_DR * scale) for name, (a_RD, b_DR) in pairs.items()}


def _refuse_not_summable(config: LoraConfig, where: str) -> None:
    """Raise an error unless the adapter is a plain low-rank update.

    DoRA divides by a norm, and fully trained modules are not low-rank: neither can be added.
    """
    plain = not (config.use_dora or config.modules_to_save or config.rank_pattern)
    if config.peft_type != "LORA" or not plain or config.alpha_pattern or config.bias != "none":
        raise UsageError(
            f"{where}: only a plain LoRA adapter can be added to another, "
            "this one uses DoRA, modules_to_save, rank or alpha patterns, or a bias",
            hint="merge the earlier adapter into its base model and set `from` to that folder",
        )
