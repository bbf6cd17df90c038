"""bitsandbytes, imported so that it stays on this machine and keeps quiet.

Where the CPU computes in bfloat16, bitsandbytes asks the package ``kernels`` for compiled code from
a public hub *while it is imported*, and logs a warning where that package is not installed. Code
from a hub is never run here, so ``kernels`` cannot be imported as long as that import lasts;
afterwards it is what it was. peft imports bitsandbytes by itself: modules that import peft import
this one first.
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

_HIDDEN = "kernels"


@contextmanager
def _alone() -> Iterator[None]:
    """Inside, ``kernels`` is a package that is not installed."""
    present = sys.modules.get(_HIDDEN)
    sys.modules[_HIDDEN] = None  # type: ignore[assignment]  # Python for "do not import this"
    try:
        yield
    finally:
        del sys.modules[_HIDDEN]
        if present is not None:
            sys.modules[_HIDDEN] = present


def _load() -> tuple[ModuleType | None, str]:
    """The package, or the reason in words why there is none."""
    # It warns of that import, and at every product in 8 bits that the input becomes float16.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    try:
        with _alone():
            return import_module("bitsandbytes"), ""
    except (ImportError, OSError, RuntimeError) as error:  # not there; or its library does not load
        return None, f"{error!s:.160}"


_PACKAGE, _REASON = _load()


def package() -> ModuleType:
    """The package, unproven on any device.

    Raises:
        EnvironmentProblem: it is not installed.
    """
    if _PACKAGE is None:
        raise EnvironmentProblem(
            f"bitsandbytes cannot be imported, {_REASON}",
            hint="pip install 'bitsandbytes>=0.46', or use technique lora, which does not need it",
        )
    return _PACKAGE


def require(device: torch.device) -> ModuleType:
    """The package, once it has quantised a matrix on the device and multiplied by it.

    Raises:
        EnvironmentProblem: it is not installed, or has no code for this machine.
    """
    module = package()
    try:
        weight_OI = torch.ones(64, 64, device=device)
        packed, state = module.functional.quantize_4bit(weight_OI, quant_type="nf4")
        sums_O = module.matmul_4bit(torch.ones(1, 64, device=device), packed, quant_state=state)
        works = bool(torch.allclose(sums_O, torch.full_like(sums_O, 64)))
        reason = "a product of ones came out wrong"
    except (RuntimeError, NotImplementedError, AttributeError, OSError) as error:
        works, reason = False, f"{error!s:.160}"
    if not works:
        raise EnvironmentProblem(
            f"bitsandbytes {module.__version__} does not work on {device.type} here, {reason}",
            hint="technique lora needs no quantisation",
        )
    return module
