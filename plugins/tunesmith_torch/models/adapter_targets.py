"""Find the modules that an adapter's options name, and reject names that have no effect.

PEFT ignores a name in ``modules_to_save`` that matches no module: nothing would be trained, but the
artifact would claim otherwise. PEFT also compares only the ends of names, so ``norm`` would match
``input_layernorm`` too. Here a name matches a module if it equals the last dotted parts of the
module's name.

Only modules that text passes through are chosen. The vision tower of a multimodal model has layers
with the same names, but they would never get a gradient.

The experts of a layer are stacked into one parameter, not into modules. They only get an adapter
through ``target_parameters``. In families whose experts were modules before transformers 5, PEFT
replaces the names ``gate_proj``, ``up_proj`` and ``down_proj`` with these parameters, both in
training and when it reads an adapter. Linear layers that still have such a name (dense layers,
shared experts) are therefore named by their weight, such as ``mlp.up_proj.weight``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch

from tunesmith_torch.runtime import peft_import  # noqa: F401 - must precede peft

# isort: split
from peft import LoraConfig
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import UsageError
from tunesmith_torch.options.adaptation import AdapterOptions, matches_pattern

__all__ = ["AdapterTargets"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_ADAPTABLE = (nn.Linear, Conv1D, nn.Embedding, *_CONVOLUTIONS)
"""Classes of modules that PEFT can adapt."""
MAMBA_TYPES = {"falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h"}
"""Model types whose ``out_proj`` PEFT does not adapt."""
_MODULES_KEY = "technique.adapter.target_modules"
_NOT_STACKED = ("dropout", "use_dora", "init", "layers")
"""Options that PEFT does not support for stacked parameters."""
_PARAMETERS_KEY = "technique.adapter.target_parameters"


@dataclass(frozen=True)
class AdapterTargets:
    """Names for PEFT's config: modules that get an adapter, and modules that are trained fully."""

    modules: list[str]
    parameters: list[str]
    modules_to_save: list[str]
    are_conv1d: bool
    """True if all modules are transformers' ``Conv1D``, whose weight is transposed."""

    @classmethod
    def resolve(cls, model: PreTrainedModel, options: AdapterOptions) -> AdapterTargets:
        """Return the targets that the options name, after checking each name.

        Raises:
            UsageError: a name matches no module or parameter, or one that cannot be trained.
        """
        modules = find_text_modules(model)
        chosen = _choose_modules(model, modules, options)
        rerouted = _rerouted_names(model, {_last_part(name) for name in chosen})
        _check_named(model, options, chosen)
        direct = {n: m for n, m in chosen.items() if _last_part(n) not in rerouted}
        weights = [f"{name}.weight" for name in chosen if name not in direct]
        plain = AdapterOptions()
        others = [n for n in _NOT_STACKED if getattr(options, n) != getattr(plain, n)]
        if weights and others:
            option = others[0]
            raise UsageError(
                f"technique.adapter.{option}: PEFT does not support it for {format_names(weights)} "
                f"in {model.config.model_type} models",
                hint=f"remove technique.adapter.{option}, or list other modules in {_MODULES_KEY}",
            )
        return cls(
            modules=_shortest_names(model, direct, options),
            parameters=[*weights, *_resolve_parameters(model, modules, options.target_parameters)],
            modules_to_save=_resolve_modules_to_save(model, modules, options.modules_to_save),
            are_conv1d=bool(direct) and all(isinstance(m, Conv1D) for m in direct.values()),
        )


def find_text_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules that text passes through, by name: the decoder and the output head."""
    modules = {name: module for name, module in model.named_modules() if name}
    if model.config.get_text_config() is model.config:
        return modules
    text_parts = {*model.get_decoder().modules(), *_head_modules(model)}
    return {name: module for name, module in modules.items() if module in text_parts}


def freeze_other_modalities(model: PreTrainedModel) -> list[str]:
    """Freeze the parts of the model that text does not pass through; return their names."""
    text = {id(p) for module in find_text_modules(model).values() for p in module.parameters(False)}
    others = [(name, p) for name, p in model.named_parameters() if id(p) not in text]
    if model.config.get_text_config() is model.config:
        return []
    for _, parameter in others:
        parameter.requires_grad_(False)
    return sorted({".".join(name.split(".")[:2]) for name, _ in others})


def experts_without_adapter(model: PreTrainedModel, targets: AdapterTargets) -> list[str]:
    """Return the short names of stacked expert parameters that no adapter changes."""
    stacked = _stacked_parameters(find_text_modules(model))
    targeted = {
        name for target in targets.parameters for name in find_matching_names(stacked, target)
    }
    return _last_two_parts(name for name in stacked if name not in targeted)


def find_matching_names(names: Iterable[str], target: str) -> list[str]:
    """Return the full names whose last dotted parts are ``target``, PEFT's rule for modules."""
    return [name for name in names if name == target or name.endswith(f".{target}")]


def format_names(names: Sequence[str]) -> str:
    """List the first names for a message, and the number of others."""
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more}"


# --------------------------------------------------------------------------- modules with adapters


def _choose_modules(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], options: AdapterOptions
) -> dict[str, nn.Module]:
    """Return the modules that get an adapter, by their full names."""
    linear = _linear_layers(model, modules)
    if options.target_modules == "all-linear":
        if not linear:
            raise UsageError(f"{_MODULES_KEY}: the model has no linear layers outside its head")
        return linear
    chosen: dict[str, nn.Module] = {}
    hint = f"linear layers of this model: {', '.join(_last_parts(linear))}"
    for target in options.target_modules:
        found = {name: modules[name] for name in find_matching_names(modules, target)}
        if not found:
            raise UsageError(f'{_MODULES_KEY}: no module is named "{target}"', hint=hint)
        if lost := _lost_when_read(model, found):
            raise UsageError(
                f'{_MODULES_KEY}: "{target}" matches {format_names(sorted(lost))}. PEFT renames '
                f"this in {model.config.model_type} models, so it could not read the adapter back",
                hint=hint,
            )
        other = next((m for m in found.values() if not _fits_adapter(m)), None)
        if other is not None:
            raise UsageError(
                f'{_MODULES_KEY}: "{target}" is a {type(other).__name__}, which cannot have an '
                "adapter",
                hint=hint,
            )
        chosen.update(found)
    _refuse_tied_targets(model, chosen)
    return chosen


def _check_named(
    model: PreTrainedModel, options: AdapterOptions, chosen: Mapping[str, nn.Module]
) -> None:
    """Raise an error for patterns, layers and tokens that match nothing, which PEFT ignores."""
    for key in ("rank_pattern", "alpha_pattern"):
        for pattern in getattr(options, key):
            if not any(matches_pattern(pattern, name) for name in chosen):
                raise UsageError(
                    f'technique.adapter.{key}: no module with an adapter is named "{pattern}"',
                    hint=f"modules with an adapter: {', '.join(_last_parts(chosen))}",
                )
    config = model.config.get_text_config()
    limits = {"layers": config.num_hidden_layers, "trainable_tokens": config.vocab_size}
    for key, limit in limits.items():
        if beyond := [number for number in getattr(options, key) if number >= limit]:
            raise UsageError(
                f"technique.adapter.{key}: {beyond[0]} does not exist; the last one is {limit - 1}"
            )


def _linear_layers(
    model: PreTrainedModel, modules: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """Return the linear layers that can have an adapter, except the output head."""
    head = model.get_output_embeddings()
    linear = {
        name: module
        for name, module in modules.items()
        if isinstance(module, (nn.Linear, Conv1D))
        and module is not head
        and not _computes_more(module)
        and not _is_refused_by_peft(model, name)
    }
    lost = _lost_when_read(model, linear)
    return {name: module for name, module in linear.items() if name not in lost}


def _fits_adapter(module: nn.Module) -> bool:
    """Return True for a layer that can have an adapter."""
    return isinstance(module, _ADAPTABLE) and not (
        isinstance(module, (nn.Linear, Conv1D)) and _computes_more(module)
    )


def _computes_more(module: nn.Module) -> bool:
    """Return True for a layer that computes more than a product of its input and weight.

    Llama 4's router returns two tensors; DeepSeek V4's grouped layer is block-diagonal.
    """
    layer = type(module)
    if not (layer.__module__.startswith("transformers.models.") and "forward" in vars(layer)):
        return False
    weight = module.get_parameter("weight")
    try:
        with torch.no_grad():
            output = module(weight.new_zeros(1, weight.shape[1]))
    except (RuntimeError, IndexError):
        return True  # it takes inputs of another shape
    return not isinstance(output, Tensor) or output.shape != (1, weight.shape[0])


def _is_refused_by_peft(model: PreTrainedModel, name: str) -> bool:
    """Return True for a projection whose weight Mamba's kernels read, ignoring adapters."""
    return _last_part(name) == "out_proj" and model.config.model_type in MAMBA_TYPES


def _lost_when_read(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Return the names of modules whose adapter PEFT could save, but not read back.

    When PEFT reads an adapter, it renames modules as transformers does for older weights of the
    model type. Some of these rules also change names that are current, such as Laguna's
    ``shared_experts``.
    """
    try:
        from peft.utils.transformers_weight_conversion import (
            convert_peft_adapter_state_dict_for_transformers,
        )
    except ImportError:  # an earlier version of PEFT, which does not rename
        return set()
    stored = {f"base_model.model.{name}.lora_A.weight": name for name in names}
    read = convert_peft_adapter_state_dict_for_transformers(
        model, LoraConfig(), {key: torch.empty(1, 1) for key in stored}
    )
    return {name for key, name in stored.items() if key not in read}


def _shortest_names(
    model: PreTrainedModel, chosen: Mapping[str, nn.Module], options: AdapterOptions
) -> list[str]:
    """Return names that match only the chosen modules in PEFT, shortened if possible."""
    short = options.target_modules
    names = sorted({_last_part(n) for n in chosen}) if short == "all-linear" else list(short)
    all_names = [name for name, _ in model.named_modules()]
    fitting = {full_name for name in names for full_name in find_matching_names(all_names, name)}
    return names if fitting == {*chosen} else list(chosen)


def _rerouted_names(model: PreTrainedModel, names: Iterable[str]) -> set[str]:
    """Return the names that PEFT replaces with stacked parameters of experts."""
    try:
        from peft.utils.transformers_weight_conversion import convert_peft_config_for_transformers
    except ImportError:  # an earlier version of PEFT, which replaces nothing
        return set()
    rerouted = set()
    for name in names:
        config = LoraConfig(target_modules=[name])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=None)
        except ValueError:  # gate_proj alone: its parameter holds up_proj too
            rerouted.add(name)
        else:
            rerouted |= {name} - {*config.target_modules}
    return rerouted


def _refuse_tied_targets(model: PreTrainedModel, chosen: Mapping[str, nn.Module]) -> None:
    """Reject a target that shares its weight with another module.

    An adapter changes only one of the two, so merging or saving would lose or duplicate it.
    """
    embeddings, head = model.get_input_embeddings(), model.get_output_embeddings()
    if head is None or embeddings.weight is not head.weight:
        return
    for name, module in chosen.items():
        if module in (embeddings, head):
            target = _last_part(name)
            raise UsageError(
                f'{_MODULES_KEY}: "{target}" shares its weight with another module, so a LoRA '
                "adapter on it would be lost when the model is merged or saved",
                hint="train the full module instead: technique.adapter.modules_to_save = "
                f'["{target}"]',
            )


# --------------------------------------------------------------------------- parameters


def _resolve_parameters(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], names: Sequence[str]
) -> list[str]:
    """Return the PEFT names of parameters that get an adapter, after checking each."""
    candidates = {
        f"{name}.{parameter_name}": parameter
        for name, module in modules.items()
        if not isinstance(module, _ADAPTABLE)
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim in (2, 3)
    }
    all_names = [name for name, _ in model.named_parameters()]
    resolved: list[str] = []
    for name in names:
        found = find_matching_names(candidates, name)
        if not found:
            known = ", ".join(_last_two_parts(candidates)) or "none"
            raise UsageError(
                f'{_PARAMETERS_KEY}: no parameter outside of linear layers is named "{name}"',
                hint=f"possible parameters of this model: {known}; list linear layers in "
                f"{_MODULES_KEY}",
            )
        resolved += [name] if found == find_matching_names(all_names, name) else found
    return resolved


def _stacked_parameters(modules: Mapping[str, nn.Module]) -> list[str]:
    """Return the full names of parameters that hold one matrix per expert."""
    return [
        f"{name}.{parameter_name}"
        for name, module in modules.items()
        if not isinstance(module, _CONVOLUTIONS)
        for parameter_name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim == 3
    ]


# --------------------------------------------------------------------------- fully trained modules


def _resolve_modules_to_save(
    model: PreTrainedModel, modules: Mapping[str, nn.Module], names: Sequence[str]
) -> list[str]:
    """Return the PEFT names of modules that are trained fully, after checking each."""
    key = "technique.adapter.modules_to_save"
    all_names = [name for name, _ in model.named_modules()]
    resolved: list[str] = []
    for name in names:
        found = find_matching_names(modules, name)
        if not found:
            known = _last_parts(n for n, module in modules.items() if _has_weights(module))
            raise UsageError(
                f'{key}: no module is named "{name}"',
                hint=f"modules of this model: {', '.join(known)}",
            )
        for full_name in found:
            if problem := _problem_of_full_training(modules[full_name]):
                raise UsageError(
                    f'{key}: "{name}" is {full_name}, which cannot be trained fully: {problem}'
                )
        # PEFT matches every module whose name ends with these letters: "layernorm" for "norm".
        is_exact = found == [full_name for full_name in all_names if full_name.endswith(name)]
        resolved += [name] if is_exact else found
    return resolved


def _problem_of_full_training(module: nn.Module) -> str:
    """Return the reason why a module cannot be trained fully; empty if it can."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return "it is a list of modules; use the names of the modules in it"
    if not _has_weights(module):
        return "it has no weights"
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        return "its weights are quantized"
    return ""


# --------------------------------------------------------------------------- names


def _head_modules(model: PreTrainedModel) -> Iterator[nn.Module]:
    head = model.get_output_embeddings()
    yield from () if head is None else head.modules()


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _last_part(name: str) -> str:
    return name.rsplit(".", 1)[-1]


def _last_parts(names: Iterable[str]) -> list[str]:
    """Return the last parts of dotted names, sorted, without layer numbers."""
    return sorted({part for part in map(_last_part, names) if not part.isdigit()})


def _last_two_parts(names: Iterable[str]) -> list[str]:
    """Return the last two parts of dotted names, sorted: a parameter with its module."""
    return sorted({".".join(name.split(".")[-2:]) for name in names})
