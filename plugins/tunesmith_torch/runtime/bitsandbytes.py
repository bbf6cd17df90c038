"""An import of bitsandbytes that loads no code from a hub and prints no warnings.

On a CPU with bfloat16 arithmetic, bitsandbytes uses the package ``kernels`` *while it is imported*,
to download compiled code from a public hub, and logs a warning if that package is not installed.
Code from a hub is never run here, so ``kernels`` cannot be imported during this import; afterwards
``sys.modules`` is as before. peft also imports bitsandbytes, so modules that import peft must
import this module first.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

import torch

from tunesmith.errors import EnvironmentProblem

_BLOCKED = "kernels"


@contextmanager
def _without_kernels_package() -> Iterator[None]:
    """Make the import of ``kernels`` fail, as if it were not installed."""
    present = sys.modules.get(_BLOCKED)
    sys.modules[_BLOCKED] = None  # type: ignore[assignment]  # makes Python raise ImportError
    try:
        yield
    finally:
        del sys.modules[_BLOCKED]
        if present is not None:
            sys.modules[_BLOCKED] = present


def _import_quietly() -> tuple[ModuleType | None, str]:
    """Return the package, or None and the reason why it cannot be imported."""
    # It warns about that import, and at every 8-bit product that the input is cast to float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _without_kernels_package():
            return import_module("bitsandbytes"), ""
    except (ImportError, OSError, RuntimeError) as error:  # not installed; library fails to load
        return None, f"{error!s:.160}"


_PACKAGE, _REASON = _import_quietly()


def get_package() -> ModuleType:
    """Return the package, which is not yet known to work on any device.

    Raises:
        EnvironmentProblem: bitsandbytes cannot be imported.
    """
    if _PACKAGE is None:
        raise EnvironmentProblem(
            f"bitsandbytes cannot be imported, {_REASON}",
            hint="pip install 'bitsandbytes>=0.46', or use technique lora, which does not need it",
        )
    return _PACKAGE


def get_checked_package(device: torch.device) -> ModuleType:
    """Return the package after it has quantized and multiplied a matrix on the device.

    Raises:
        EnvironmentProblem: bitsandbytes cannot be imported, or has no code for this device.
    """
    module = get_package()
    try:
        weight_OI = torch.ones(64, 64, device=device)
        packed, state = module.functional.quantize_4bit(weight_OI, quant_type="nf4")
        sums_O = module.matmul_4bit(torch.ones(1, 64, device=device), packed, quant_state=state)
        works = bool(torch.allclose(sums_O, torch.full_like(sums_O, 64)))
        reason = "a test product gave a wrong result"
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        works, reason = False, f"{error!s:.160}"
    if not works:
        raise EnvironmentProblem(
            f"bitsandbytes {module.__version__} does not work on {device.type} here: {reason}",
            hint="use technique lora, which needs no quantization",
        )
    return module
