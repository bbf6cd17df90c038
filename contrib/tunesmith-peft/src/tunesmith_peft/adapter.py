"""Add an adapter of any method of PEFT to a loaded base model."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tunesmith_torch.models.adapters import AdaptedModel, adapt_peft

# isort: split
import peft  # after adapters.py, which imports PEFT without bitsandbytes
from peft.tuners.lora import config as lora_config

from tunesmith.errors import TunesmithError, UsageError
from tunesmith_peft.methods import Method, find_method
from tunesmith_peft.peft_source import list_methods, read_options
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.runtime.device import Precision

__all__ = ["add_adapter", "build_config", "convert_peft_errors"]

LONG_TRAINING = 10**9
"""Number of steps for AdaLoRA's schedule until the number of training steps is known."""


def add_adapter(
    base: LoadedBase, precision: Precision, method: str, given: dict[str, Any], seed: int
) -> AdaptedModel:
    """Add an adapter with the given options of its method; make only its parameters trainable.

    Raises:
        UsageError: PEFT rejects the options, or the model is unsuitable for them.
    """
    with convert_peft_errors(method):
        config = build_config(method, given, base.folder)
        adapted = adapt_peft(base, precision, config, seed, {"weights": method})
    if getattr(config, "tokenizer_name_or_path", None):
        # The text has given the initial values; who loads the adapter does not need a tokenizer.
        config.prompt_tuning_init, config.tokenizer_name_or_path = "RANDOM", None
    if not adapted.num_trainable_parameters:
        raise UsageError(f"technique.options: method {method} trains no parameter")
    return adapted


def build_config(method: str, given: dict[str, Any], model: Path = Path()) -> Any:
    """Return PEFT's config for the options of a method; ``model`` is the folder of the base model.

    Raises:
        ValueError: the config's own checks reject a value.
    """
    known, values = read_options(method), dict(given)
    for name, value in given.items():
        table = known[name].table_class
        if table and isinstance(value, dict):
            values[name] = _find_class(table)(**value)
    described = find_method(method) or Method()
    if "target_modules" in known and not described.own_targets and not described.uses_forward:
        values.setdefault("target_modules", "all-linear")
    if "progressbar" in known:
        values.setdefault("progressbar", False)
    if method == "adalora":
        values.setdefault("total_step", LONG_TRAINING)
    if values.get("prompt_tuning_init") == "TEXT":
        values["tokenizer_name_or_path"] = str(model)
    if method == "cpt":
        count = len(values["cpt_token_ids"])
        values.setdefault("cpt_mask", [1] * count)
        values.setdefault("cpt_tokens_type_mask", [1] * count)
    return _find_class(list_methods()[method])(task_type="CAUSAL_LM", **values)


def _find_class(name: str) -> Callable[..., Any]:
    """Return a config class, or the class of a table in LoRA's config."""
    methods = {c.__name__: c for c in peft.PEFT_TYPE_TO_CONFIG_MAPPING.values()}
    found: Callable[..., Any] = methods.get(name) or getattr(lora_config, name)
    return found


@contextmanager
def convert_peft_errors(method: str) -> Iterator[None]:
    """Convert PEFT's errors about options inside the block to a :class:`UsageError`."""
    try:
        yield
    except TunesmithError:
        raise
    except Exception as error:  # whatever a method raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UsageError(
            f"technique.options: PEFT rejects these options of {method}: {reason:.300}",
            hint=f"see the options: tunesmith peft methods {method}",
        ) from error
