"""An import of PEFT that does not import bitsandbytes; modules that import PEFT import this first.

PEFT imports bitsandbytes twice where it is installed: when PEFT itself is imported (for one helper,
which dequantizes), and when it builds the first adapter layer, to see whether the layer below is
quantized. That takes seconds, and bitsandbytes would load code from a hub
(:mod:`tunesmith_torch.runtime.bitsandbytes`). So this module imports PEFT with a placeholder in its
place, and :func:`without_unused_bitsandbytes` answers the second question with no.
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
    """bitsandbytes, imported when an attribute is read for the first time."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # read by code that only looks at all loaded modules
            raise AttributeError(name)
        if sys.modules.get(bitsandbytes.NAME) is self:
            del sys.modules[bitsandbytes.NAME]
        return getattr(bitsandbytes.get_package(), name)


def _import_peft() -> ModuleType:
    if bitsandbytes.NAME in sys.modules or find_spec(bitsandbytes.NAME) is None:
        return import_module("peft")
    placeholder = _ImportedWhenUsed(bitsandbytes.NAME)
    placeholder.__spec__ = find_spec(bitsandbytes.NAME)
    with _replaced(placeholder):
        return import_module("peft")


@contextmanager
def _replaced(module: ModuleType | None) -> Iterator[None]:
    """Let ``import bitsandbytes`` give this module; None: let it fail."""
    sys.modules[bitsandbytes.NAME] = module  # type: ignore[assignment]  # None raises ImportError
    try:
        yield
    finally:
        if sys.modules.get(bitsandbytes.NAME) is module:
            del sys.modules[bitsandbytes.NAME]


@contextmanager
def without_unused_bitsandbytes() -> Iterator[None]:
    """Keep PEFT, while it adds adapters, from importing bitsandbytes only to find it unused.

    A quantized layer is an instance of a class of bitsandbytes. Where that is not imported yet, no
    layer of the model is quantized by it, so PEFT may take it for missing. PEFT caches its answer,
    which is forgotten afterwards: a later model may be quantized.
    """
    if bitsandbytes.NAME in sys.modules:
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
