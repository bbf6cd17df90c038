"""Checks of options at planning time, without torch: libraries, devices, unusual values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec

from pydantic import BaseModel

from tunesmith.contracts import Finding
from tunesmith_torch.options.adaptation import AdapterOptions
from tunesmith_torch.options.training import (
    AUTO,
    DEFAULT_BY,
    ScheduleOptions,
    TrainingOptions,
    ValidationOptions,
)

__all__ = [
    "MIN_LEARNING_RATE",
    "check_optimizer",
    "find_inert_options",
    "find_sharding_errors",
    "find_unknown_evaluators",
]

MIN_LEARNING_RATE = 1e-7
"""Learning rate below which weights hardly change in a usual number of steps."""
USUAL_ADAPTER_SCALES = (0.01, 128.0)
"""Range of adapter scales without a warning; common scales are 0.25 to 32."""
MOST_DROPOUT, MOST_WARMUP = 0.5, 0.5


def check_optimizer(options: TrainingOptions, device: str) -> list[Finding]:
    """Return errors if the optimizer's library is missing or does not support the device.

    Further checks run when training starts.
    """
    optimizer = options.optimizer.name
    problems = []
    if optimizer != "adamw" and find_spec("bitsandbytes") is None:
        problems.append(
            f'"{optimizer}" needs bitsandbytes, which is not installed: run '
            "`pip install 'bitsandbytes>=0.46'`"
        )
    if optimizer == "paged-adamw-8bit" and device in ("cpu", "mps"):
        problems.append(f'"{optimizer}" needs an NVIDIA GPU, but the device is {device}')
    return [
        Finding(level="error", where="technique.optimizer.name", message=text) for text in problems
    ]


def find_sharding_errors(options: BaseModel, where: str = "technique") -> Iterator[Finding]:
    """Yield an error for each table that shards weights, for runs where plugins add to training."""
    if isinstance(options, TrainingOptions) and options.parallel == "sharded":
        text = '"sharded" cannot be used: a plugin table needs all weights; use "data"'
        yield Finding(level="error", where=f"{where}.parallel", message=text)
    for name, value in options:
        if isinstance(value, BaseModel):
            yield from find_sharding_errors(value, f"{where}.{name}")


def find_inert_options(options: BaseModel, where: str = "technique") -> Iterator[Finding]:
    """Yield a warning for each option value, at any depth, that keeps a model from learning.

    These values are valid, so training would finish without an error, but with a bad result.
    """
    for key, what in _describe_inert(options):
        yield Finding(level="warning", where=f"{where}.{key}", message=what)
    for name, value in options:
        if isinstance(value, BaseModel):
            yield from find_inert_options(value, f"{where}.{name}")


def find_unknown_evaluators(
    options: BaseModel, evaluators: Sequence[str], where: str = "technique"
) -> Iterator[Finding]:
    """Yield an error for each ``validation`` table whose ``by`` is not an evaluator of the run.

    ``evaluators``: the ids of the run's evaluators. Without any, nothing is reported.
    """
    known = dict.fromkeys([DEFAULT_BY, *evaluators])
    if isinstance(options, ValidationOptions) and evaluators and options.by not in known:
        text = f'"{options.by}" is not an evaluator of this run; choose one of: {", ".join(known)}'
        yield Finding(level="error", where=f"{where}.by", message=text)
    for name, value in options:
        if isinstance(value, BaseModel):
            yield from find_unknown_evaluators(value, evaluators, f"{where}.{name}")


def _describe_inert(options: BaseModel) -> Iterator[tuple[str, str]]:
    """Yield key and effect of each inert value in one table, ignoring its subtables."""
    if isinstance(options, TrainingOptions) and AUTO < options.learning_rate < MIN_LEARNING_RATE:
        text = f"{options.learning_rate:g} is so low that the weights hardly change"
        yield "learning_rate", f"{text}; usual values are 1e-6 to 1e-3"
    if isinstance(options, ScheduleOptions) and options.warmup_ratio > MOST_WARMUP:
        text = f"warm-up takes {options.warmup_ratio:.3g} of the steps"
        yield (
            "warmup_ratio",
            f"{text}, so most have a low learning rate; common values are 0.03 to 0.1",
        )
    if isinstance(options, AdapterOptions):
        scale = options.alpha / (options.rank**0.5 if options.use_rslora else options.rank)
        if not USUAL_ADAPTER_SCALES[0] <= scale <= USUAL_ADAPTER_SCALES[1]:
            effect = "have little effect" if scale < 1 else "outweigh the base model"
            text = f"{options.alpha:g} scales the adapters by {scale:.3g}, so they {effect}"
            yield "alpha", f"{text}; usual values are one or two times the rank"
        if options.dropout > MOST_DROPOUT:
            text = f"only {1 - options.dropout:.3g} of the adapters' input remains in each step"
            yield "dropout", f"{text}; usual values are 0 to 0.1"
