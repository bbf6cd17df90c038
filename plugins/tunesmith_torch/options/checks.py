"""Checks of options at planning time, without torch: required libraries and devices."""

from __future__ import annotations

from importlib.util import find_spec

from tunesmith.contracts import Finding
from tunesmith_torch.options.training import TrainingOptions


def check_optimizer(options: TrainingOptions, device: str) -> list[Finding]:
    """Return errors if the optimizer's library is missing or the device does not support it.

    Training checks the rest when it starts.
    """
    optimizer = options.optimizer.name
    problems = []
    if optimizer != "adamw" and find_spec("bitsandbytes") is None:
        problems.append(
            f'"{optimizer}" needs bitsandbytes, which is not installed: pip install bitsandbytes'
        )
    if optimizer == "paged-adamw-8bit" and device in ("cpu", "mps"):
        problems.append(f'"{optimizer}" needs an NVIDIA GPU, and the device is {device}')
    return [
        Finding(level="error", where="technique.optimizer.name", message=text) for text in problems
    ]
