"""Check at plan time that an adapter fits the base model, from the model's config alone."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from tunesmith.errors import UsageError
from tunesmith_peft.adapter import add_adapter
from tunesmith_peft.data_driven import reads_rows
from tunesmith_peft.options import PeftOptions
from tunesmith_torch.memory_estimate.meta_model import make_meta_config, make_meta_model
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision

__all__ = ["find_error"]

LAYERS = 2
"""Number of layers that are built; all layers have the same sizes."""


def find_error(options: PeftOptions, config: Mapping[str, Any]) -> UsageError | None:
    """Return the error that training would raise for the adapter, or None if none is known."""
    if reads_rows(options) or not config:
        return None
    names_layers = {"layers_to_transform", "adapter_layers", "rank_pattern"} & {*options.options}
    try:
        meta_config = make_meta_config(config, None if names_layers else LAYERS)
    except UsageError:
        return None  # loading the model will report it
    model = make_meta_model(meta_config, torch.float32, "eager")
    base = LoadedBase(model, cast(Any, None), meta_config, Path())
    try:
        with torch.random.fork_rng(devices=[]):
            precision = Precision(torch.float32, "planned")
            add_adapter(base, precision, options.method, options.options, 0)
    except UsageError as error:
        # A method that computes with the weights cannot be built without them.
        return None if "meta tensor" in error.message else error
    except NotImplementedError:
        return None
    return None
