"""Where a policy starts: at the base model, or at what an earlier run left behind.

A policy that was fine-tuned before is trained further with a *fresh* adapter over the frozen one::

    base  +  start (frozen)  +  policy (trained)

so that the policy begins as the start exactly, and the start is there again whenever the fresh
adapter is switched off. What is saved is one adapter for the untouched base model: the sum of two
low-rank updates is a low-rank update, ``B1 A1 + B2 A2 = [B1 B2] [A1; A2]``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch

from tunesmith_torch.runtime import bitsandbytes  # noqa: F401 - before peft, which imports bitsandbytes

# isort: split
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import get_peft_model_state_dict, set_peft_model_state_dict
from torch import Tensor

from tunesmith.errors import IntegrityError, UsageError
from tunesmith.storage import verify
from tunesmith.storage.manifest import MANIFEST
from tunesmith_torch.kernels import fused_lora
from tunesmith_torch.models.adapters import Adapted, adapt_all, adapt_lora, lora_config
from tunesmith_torch.models.artifacts import artifact_format, attach_adapter, check_adapter
from tunesmith_torch.models.loading import Base, old_name_is_known
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import Precision

START, POLICY = "default", "policy"
"""Names of the frozen adapter and of the one above it."""
FOLDED = "folded"
"""Name of a start that was folded into the base, where it is added up again."""


@dataclass(frozen=True)
class Start:
    """What an earlier run left behind."""

    path: Path
    format: Literal["adapter", "model"]

    @classmethod
    def find(cls, where: str, stage: str = "") -> Start:
        """The artifact in a run folder, or the artifact folder itself.

        In the folder of a run with stages it is that of ``stage``, or else of the policy.

        Raises:
            UsageError: there is none.
            IntegrityError: it is not what its manifest says.
        """
        folder = Path(where)
        places = [folder, *(folder / name for name in (stage or "policy", "supervised"))]
        for candidate in (place / name for place in places for name in ("", "adapter", "model")):
            names = ("adapter_config.json", "config.json")
            if any((candidate / name).is_file() for name in names):
                problems = verify(candidate) if (candidate / MANIFEST).is_file() else []
                if problems:
                    raise IntegrityError(f"{candidate}: {problems[0]}")
                return cls(candidate, artifact_format(candidate))
        raise UsageError(
            f"technique.from: no adapter and no model in {folder}",
            hint="name a run folder whose run has finished, or the adapter or model folder itself",
        )


def base_folder(model: Path, start: Start | None) -> Path:
    """The folder whose weights come first: the base model, or the fully trained one."""
    return start.path if start is not None and start.format == "model" else model


def load_policy_base(
    folder: Path,
    device: torch.device,
    precision: Precision,
    packing: bool,
    quantization: Quantization | None = None,
) -> Base:
    """A base model that takes packed rows and shared prompts, if packing is wanted."""
    return load_model(folder, device, precision, packing=packing, quantization=quantization)


def quantization_of(options: PolicyOptions) -> Quantization | None:
    """How the options have the base stored; None: as it is."""
    if options.adapt != "qlora":
        return None
    return Quantization(options.bits, options.double_quantization)


def adapt_policy(
    base: Base,
    precision: Precision,
    options: LoraOptions,
    *,
    weights: Literal["lora", "full"],
    start: Start | None,
    seed: int,
) -> Adapted:
    """Make the policy ready for training; until its first step it *is* the start.

    Raises:
        UsageError: the start's adapter, or the one to be trained, cannot be added up.
    """
    if start is None or start.format == "model":
        if weights == "full":
            return adapt_all(base, precision)
        return adapt_lora(base, precision, options, seed)
    if weights == "full":
        merged = attach_adapter(base, start.path).merge_and_unload()
        return adapt_all(replace(base, model=merged), precision)
    config = lora_config(base.model, options)
    _refuse_sum(config, "technique")
    base.model.requires_grad_(False)
    model = attach_adapter(base, start.path, fused_kernels=options.fused_kernels)
    _refuse_sum(model.peft_config[START], "technique.from")
    torch.manual_seed(seed)
    model.add_adapter(POLICY, config, autocast_adapter_dtype=True)
    fused_lora.introduce(model)
    _activate(model, [START, POLICY])
    details = {"weights": "lora", "rank": options.rank, "start": str(start.path)}
    return Adapted(model, base, precision, "adapter", details)


def adapt_over(
    base: Base, precision: Precision, options: LoraOptions, *, start: Start, seed: int
) -> Adapted:
    """A fresh adapter alone, over the base with the start's adapter folded in.

    For code that knows a policy of one adapter, and its reference as the same without it: with two,
    ``disable_adapter`` would give the bare base. :func:`sum_with` gives what is saved.

    Raises:
        UsageError: the start's adapter, or the one to be trained, cannot be added up.
    """
    _refuse_sum(lora_config(base.model, options), "technique")
    model = attach_adapter(base, start.path)
    _refuse_sum(model.peft_config[START], "technique.from")
    folded = replace(base, model=cast(Any, model).merge_and_unload())
    adapted = adapt_lora(folded, precision, options, seed)
    return replace(adapted, details={**adapted.details, "start": str(start.path)})


def sum_with(adapted: Adapted, start: Start) -> Adapted:
    """What :func:`adapt_over` made, trained: one adapter for the untouched base model."""
    model = cast(PeftModel, adapted.model)
    add_frozen(model, start.path, FOLDED)
    return _one(adapted, model, (FOLDED, model.active_adapter))


@contextmanager
def as_reference(adapted: Adapted) -> Iterator[None]:
    """While it lasts, an adapted model is the policy that training started from.

    Raises:
        UsageError: every weight moves, so the start is gone.
    """
    model = adapted.model
    if not isinstance(model, PeftModel):
        raise UsageError("a fully trained model keeps no reference", hint='set adapt = "lora"')
    if POLICY not in model.peft_config:
        with model.disable_adapter():
            yield
        return
    with using(model, [START]):
        yield


@contextmanager
def using(model: PeftModel, names: list[str]) -> Iterator[None]:
    """While it lasts, exactly these adapters work; what is trained stays what it was."""
    tuner = cast(Any, model.base_model)
    before = list(tuner.active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    try:
        tuner.set_adapter(names)
        yield
    finally:
        tuner.set_adapter(before)
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)


def add_frozen(model: PeftModel, folder: Path, name: str) -> None:
    """Put an adapter from disk beside those that a model has. It works under :func:`using` only.

    Raises:
        IntegrityError: the adapter lacks tensors of the model, or has some that it does not know.
    """
    before = list(cast(Any, model.base_model).active_adapters)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
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


def base_of_adapter(adapter: Path, model: Path) -> Path:
    """The folder of the weights that an adapter was trained over; ``model`` if it names none."""
    config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    named = Path(config.get("base_model_name_or_path") or "")
    # A run that was moved took the model of its first stage with it.
    beside = adapter.parent.parent / named.parent.name / named.name
    for folder in (named, beside):
        if (folder / "config.json").is_file():
            return folder
    return model


def one_adapter(adapted: Adapted) -> Adapted:
    """The policy with both adapters as one, for the untouched base model; others as they are."""
    model = adapted.model
    if not isinstance(model, PeftModel) or POLICY not in model.peft_config:
        return adapted
    return _one(adapted, model, (START, POLICY))


def _one(adapted: Adapted, model: PeftModel, names: tuple[str, str]) -> Adapted:
    """The sum of two adapters as one."""
    parts = [_scaled(model, name) for name in names]
    width = sum(model.peft_config[name].r for name in names)
    modules = sorted({name for part in parts for name in part})
    state: dict[str, Tensor] = {}
    for name in modules:
        found = [part[name] for part in parts if name in part]
        a_RD = torch.cat([a for a, _ in found], 0)
        b_DR = torch.cat([b for _, b in found], 1)
        short = width - a_RD.shape[0]
        state[f"{name}.lora_A.weight"] = torch.nn.functional.pad(a_RD, (0, 0, 0, short))
        state[f"{name}.lora_B.weight"] = torch.nn.functional.pad(b_DR, (0, short))
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=width,
        lora_alpha=width,  # the scales are in the matrices already
        target_modules=[name.removeprefix("base_model.model.") for name in modules],
        bias="none",
    )
    bare = cast(Any, model).unload()
    with old_name_is_known():
        whole = get_peft_model(bare, config, autocast_adapter_dtype=True)
    loaded = set_peft_model_state_dict(whole, state)
    if loaded.unexpected_keys:
        raise IntegrityError(f"adapters cannot be added up: {loaded.unexpected_keys[0]}")
    return replace(adapted, model=whole)


def _activate(model: PeftModel, names: list[str]) -> None:
    """Let these adapters work; only the policy's parameters ever move."""
    cast(Any, model.base_model).set_adapter(names)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(f".{POLICY}." in name)


def _scaled(model: PeftModel, adapter: str) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B of every module that the adapter is on, in fp32, with its scale in B."""
    config = model.peft_config[adapter]
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    state = get_peft_model_state_dict(model, adapter_name=adapter, save_embedding_layers=False)
    names = [name.removesuffix(".lora_A.weight") for name in state if ".lora_A." in name]
    pairs = {name: [state[f"{name}.lora_{x}.weight"].float() for x in "AB"] for name in names}
    return {name: (a_RD, b_DR * scale) for name, (a_RD, b_DR) in pairs.items()}


def _refuse_sum(config: LoraConfig, where: str) -> None:
    """DoRA divides by a norm, whole modules are no low-rank updates: neither can be added up."""
    plain = not (config.use_dora or config.modules_to_save or config.rank_pattern)
    if config.peft_type != "LORA" or not plain or config.alpha_pattern or config.bias != "none":
        raise UsageError(
            f"{where}: only a plain LoRA adapter can be added to another, "
            "this one has dora, modules_to_save or something else beside",
            hint="merge the earlier adapter into its base model and start from that folder",
        )
