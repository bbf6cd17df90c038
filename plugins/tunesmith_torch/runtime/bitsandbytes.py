"""Import bitsandbytes without loading code from a hub and without printing warnings.

On a CPU with bfloat16 arithmetic, bitsandbytes uses the package ``kernels`` *while it is imported*,
to download compiled code from a public hub. It logs a warning if that package is not installed.
This toolkit never runs code from a hub, so ``kernels`` cannot be imported during this import.
Afterwards ``sys.modules`` is restored.

The import takes seconds, because bitsandbytes compiles functions with torch's compiler. So it is
only imported when a run quantizes or uses an 8-bit optimizer. PEFT would import it in every run;
:mod:`tunesmith_torch.runtime.peft_import` prevents that.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from types import ModuleType

import torch

from tunesmith.errors import EnvironmentProblem

__all__ = ["preload_bitsandbytes"]

PACKAGE_NAME = "bitsandbytes"
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


def import_bitsandbytes() -> ModuleType:
    """Import and return the package, without checking that it works on a device.

    Raises:
        EnvironmentProblem: bitsandbytes cannot be imported.
    """
    if (loaded := sys.modules.get(PACKAGE_NAME)) is not None:
        return loaded
    # bitsandbytes warns about `kernels`, and at every 8-bit product about a cast to float16.
    logging.getLogger(PACKAGE_NAME).setLevel(logging.ERROR)
    try:
        with _without_kernels_package():
            return import_module(PACKAGE_NAME)
    except (
        ImportError,
        OSError,
        RuntimeError,
    ) as error:  # it is not installed, or its library fails to load
        raise EnvironmentProblem(
            f"bitsandbytes cannot be imported: {error!s:.160}",
            hint="run `pip install 'bitsandbytes>=0.46'`, or use the `lora` technique and the "
            "`adamw` optimizer, which do not need it",
        ) from error


def preload_bitsandbytes() -> None:
    """Import the package safely, if possible, before another library imports it."""
    with suppress(EnvironmentProblem):
        import_bitsandbytes()


def import_checked_bitsandbytes(device: torch.device) -> ModuleType:
    """Return the package after a test on the device: quantize a matrix, and multiply with it.

    Raises:
        EnvironmentProblem: bitsandbytes cannot be imported, or does not work on this device.
    """
    module = import_bitsandbytes()
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
            f"bitsandbytes {module.__version__} does not work on this {device.type}: {reason}",
            hint="use the `lora` technique, which does not quantize",
        )
    return module
