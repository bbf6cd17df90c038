"""Find the modules of a model that the options of an adapter name, and refuse names without effect.

PEFT ignores a name in ``modules_to_save`` that fits no module: nothing would be trained, and the
artifact would claim the opposite. It also compares the ends of names only, so that ``norm`` would
mean ``input_layernorm`` too. Here a name means the modules whose last parts, between dots, it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from transformers import PreTrainedModel

from tunesmith.errors import UsageError


def text_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """Return the modules that text passes through, by name: the decoder and the output head.

    The others of a multimodal model, such as its vision tower, never get a gradient from text.
    """
    modules = {name: module for name, module in model.named_modules() if name}
    if model.config.get_text_config() is model.config:
        return modules
    text_parts = {*model.get_decoder().modules(), *_head_modules(model)}
    return {name: module for name, module in modules.items() if module in text_parts}


def resolve_modules_to_save(model: PreTrainedModel, names: Sequence[str]) -> list[str]:
    """Return the names for PEFT of modules that are trained fully, after checking each.

    Raises:
        UsageError: a name fits no module, or one that cannot be trained fully.
    """
    key = "technique.adapter.modules_to_save"
    modules = text_modules(model)
    all_names = [name for name, _ in model.named_modules()]
    resolved: list[str] = []
    for name in names:
        found = matching_names(modules, name)
        if not found:
            raise _no_such_module(key, name, {n for n, m in modules.items() if _has_weights(m)})
        for full_name in found:
            if problem := _problem_of_full_training(modules[full_name]):
                raise UsageError(
                    f'{key}: "{name}" is {full_name}, which cannot be trained fully: {problem}'
                )
        # PEFT takes every module whose name ends with these letters, also "layernorm" for "norm".
        is_exact = found == [full_name for full_name in all_names if full_name.endswith(name)]
        resolved += [name] if is_exact else found
    return resolved


def matching_names(names: Iterable[str], target: str) -> list[str]:
    """Return the full names whose last parts are ``target``, as PEFT matches target modules."""
    return [name for name in names if name == target or name.endswith(f".{target}")]


def last_parts(names: Iterable[str]) -> list[str]:
    """Return the last parts of dotted names, sorted, without the numbers of layers."""
    parts = {name.rsplit(".", 1)[-1] for name in names}
    return sorted(part for part in parts if not part.isdigit())


def _head_modules(model: PreTrainedModel) -> Iterable[nn.Module]:
    head = model.get_output_embeddings()
    return [] if head is None else head.modules()


def _has_weights(module: nn.Module) -> bool:
    return next(module.parameters(), None) is not None


def _problem_of_full_training(module: nn.Module) -> str:
    """Return the reason why a module cannot be trained fully; empty if it can."""
    if isinstance(module, nn.ModuleList | nn.ModuleDict):
        return "it is a list of modules; name the modules in it"
    if not _has_weights(module):
        return "it has no weights"
    if not all(parameter.is_floating_point() for parameter in module.parameters()):
        return "its weights are quantized"
    return ""


def _no_such_module(key: str, name: str, known: Iterable[str]) -> UsageError:
    return UsageError(
        f'{key}: no module is named "{name}"',
        hint=f"modules of this model: {', '.join(last_parts(known))}",
    )
