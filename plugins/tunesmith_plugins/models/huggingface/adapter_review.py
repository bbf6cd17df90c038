"""Reject adapters for modules that the base model does not have, using only its config.

Without this check, training would report the error only after loading the weights. The check builds
the model without memory for its weights. That needs torch and a few seconds, so the check only runs
if the run file lists modules. It cannot run for a model in `from`, or if the config is not on this
machine yet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from tunesmith.contracts import Finding
from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.options.training import TrainingOptions

if TYPE_CHECKING:
    from transformers import PreTrainedModel

KEY = "technique.adapter"
_NAMES = (
    "target_parameters",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layers",
    "trainable_tokens",
)
"""Options that name parts of the model."""


def review_adapters(plan: Plan) -> Iterator[Finding]:
    """Yield an error for each stage whose adapter lists a module that the base model lacks."""
    for where, options in _list_stages(plan.technique.config):
        adapter = options.adaptation.adapter
        if adapter is None or options.initial_model is not None or not _names_modules(adapter):
            continue
        if error := _find_problem(plan.found_model.config, options):
            key, _, message = error.message.partition(": ")
            yield Finding(
                level="error",
                where=key.replace(KEY, f"{where}.adapter"),
                message=message,
                hint=error.hint or "",
            )


def _list_stages(config: BaseModel) -> Iterator[tuple[str, TrainingOptions]]:
    """Yield the key and the options of each stage that is trained."""
    if isinstance(config, TrainingOptions):
        yield "technique", config
        return
    for name in type(config).model_fields:
        stage = getattr(config, name)
        if isinstance(stage, TrainingOptions) and not getattr(stage, "skip", False):
            yield f"technique.{name}", stage


def _names_modules(adapter: AdapterOptions) -> bool:
    return adapter.target_modules != "all-linear" or any(getattr(adapter, n) for n in _NAMES)


def _find_problem(config: Mapping[str, Any], options: TrainingOptions) -> UsageError | None:
    """Return the error that training would raise for the adapter, or None if no error is known."""
    if not config:
        return None
    from tunesmith_torch.models.adapter_targets import AdapterTargets

    assert options.adaptation.adapter is not None
    try:
        model = _build_model(config, is_quantized=options.adaptation.quantization is not None)
    except UsageError:
        return None  # Another review, or loading the model, will report it.
    try:
        AdapterTargets.resolve(model, options.adaptation.adapter)
    except UsageError as error:
        return error
    return None


def _build_model(config: Mapping[str, Any], *, is_quantized: bool) -> PreTrainedModel:
    """Return the base model on the meta device, with weights of the right types."""
    import torch

    from tunesmith_torch.memory_estimate import meta_model

    model = meta_model.make_meta_model(meta_model.make_meta_config(config), torch.float32, "eager")
    for _, _, layer in list(meta_model.find_quantizable_layers(model)) if is_quantized else ():
        layer.weight = torch.nn.Parameter(layer.weight.to(torch.uint8), requires_grad=False)
    return model
