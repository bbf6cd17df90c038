"""Import PEFT without importing bitsandbytes; modules that import PEFT must import this first.

If bitsandbytes is installed, PEFT imports it on two occasions: when PEFT itself is imported, for a
helper that dequantizes, and when PEFT builds the first adapter layer, to test whether the base
layer is quantized. That takes seconds, and bitsandbytes would load code from a hub
(:mod:`tunesmith_torch.runtime.bitsandbytes`). So this module imports PEFT with a placeholder for
bitsandbytes, and :func:`without_unused_bitsandbytes` makes the later test fail quickly.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from tunesmith_torch.runtime import bitsandbytes


class _ImportedWhenUsed(ModuleType):
    """A placeholder that imports bitsandbytes when an attribute is first read."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # code that inspects all loaded modules reads these
            raise AttributeError(name)
        if sys.modules.get(bitsandbytes.PACKAGE_NAME) is self:
            del sys.modules[bitsandbytes.PACKAGE_NAME]
        return getattr(bitsandbytes.import_bitsandbytes(), name)


def _import_peft() -> ModuleType:
    if bitsandbytes.PACKAGE_NAME in sys.modules or find_spec(bitsandbytes.PACKAGE_NAME) is None:
        return import_module("peft")
    placeholder = _ImportedWhenUsed(bitsandbytes.PACKAGE_NAME)
    placeholder.__spec__ = find_spec(bitsandbytes.PACKAGE_NAME)
    with _replaced(placeholder):
        return import_module("peft")


@contextmanager
def _replaced(module: ModuleType | None) -> Iterator[None]:
    """Make ``import bitsandbytes`` return this module, or fail if it is None."""
    sys.modules[bitsandbytes.PACKAGE_NAME] = module  # type: ignore[assignment]  # None raises ImportError
    try:
        yield
    finally:
        if sys.modules.get(bitsandbytes.PACKAGE_NAME) is module:
            del sys.modules[bitsandbytes.PACKAGE_NAME]


@contextmanager
def without_unused_bitsandbytes() -> Iterator[None]:
    """Keep PEFT from importing bitsandbytes inside the block if the model does not use it.

    Quantized layers are instances of bitsandbytes classes. If bitsandbytes is not imported yet, the
    model has no such layer, so PEFT may treat it as missing. PEFT caches that answer; the cache is
    cleared afterwards, because a later model may be quantized.
    """
    if bitsandbytes.PACKAGE_NAME in sys.modules:
        yield
        return
    _forget_answers()
    try:
        with _replaced(None):
            yield
    finally:
        _forget_answers()


def _forget_answers() -> None:
    checks = import_module("peft.import_utils")
    for name in ("is_bnb_available", "is_bnb_4bit_available"):
        if (forget := getattr(getattr(checks, name, None), "cache_clear", None)) is not None:
            forget()


_import_peft()
