"""What a plan can be told without torch: a library that an option needs, and a device."""

from __future__ import annotations

from importlib.util import find_spec

from tunesmith.contracts import Finding
from tunesmith_torch.options.training import FitOptions


def of_optimizer(options: FitOptions, device: str) -> list[Finding]:
    """Errors for an optimizer that cannot be had here; training checks the rest of it."""
    kind = options.optimizer
    found = []
    if kind != "adamw" and find_spec("bitsandbytes") is None:
        found.append(
            f'"{kind}" needs bitsandbytes, which is not installed: pip install bitsandbytes'
        )
    if kind == "paged-adamw-8bit" and device in ("cpu", "mps"):
        found.append(f'"{kind}" pages memory of an NVIDIA GPU, and the device is {device}')
    return [Finding(level="error", where="technique.optimizer", message=text) for text in found]
