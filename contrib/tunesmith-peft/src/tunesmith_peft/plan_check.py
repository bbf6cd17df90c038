"""Check at plan time that an adapter fits the base model, from the model's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.errors import UsageError
from tunesmith_peft.adapter import add_adapter, build_config, convert_peft_errors
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.memory_estimate.meta_model import make_meta_config, make_meta_model
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision

__all__ = ["find_error"]

LAYERS = 2
"""Number of layers that are built first; all layers have the same sizes."""
_INITIAL = ("init_lora_weights", "eva_config", "corda_config", "lora_ga_config")
"""Options about initial values, which may be computed from weights or rows."""


def find_error(options: PeftOptions, config: Mapping[str, Any]) -> UsageError | None:
    """Return the error that training would raise for the adapter, or None if none is known."""
    try:
        with convert_peft_errors(options.method):
            build_config(options.method, options.options)
    except UsageError as error:
        return error
    # Options may name a layer beyond the first ones, so an error counts for all layers only.
    return _find_error(options, config, LAYERS) and _find_error(options, config, None)


def _find_error(
    options: PeftOptions, config: Mapping[str, Any], layers: int | None
) -> UsageError | None:
    try:
        meta_config = make_meta_config(config, layers)
    except UsageError:
        return None  # loading the model will report it
    model = make_meta_model(meta_config, torch.float32, "eager")
    base = LoadedBase(model, cast(Any, None), meta_config, Path())
    left_out = ["prompt_tuning_init"]  # its text needs a tokenizer
    left_out += _INITIAL if options.changes_base or options.reads_rows else ()
    given = {name: value for name, value in options.options.items() if name not in left_out}
    try:
        with torch.random.fork_rng(devices=[]):
            add_adapter(base, Precision(torch.float32, "planned"), options.method, given, 0)
    except UsageError as error:
        # A method that computes with the weights cannot be built without them.
        needs_weights = isinstance(error.__cause__, NotImplementedError)
        return None if needs_weights or "meta tensor" in error.message else error
    return None
