"""Base models in GGUF files: ``path/to/model.gguf``, or ``wheel:PACKAGE`` for one inside a wheel.

The file is dequantised once, into a folder of the cache, and used from there ever after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl

if TYPE_CHECKING:
    from tunesmith.contracts import FoundModel


@hookimpl
def tunesmith_find_model(reference: str, revision: str | None) -> FoundModel | None:
    """A reference that ends in ``.gguf`` or begins with ``wheel:``."""
    if not reference.startswith("wheel:") and not reference.lower().endswith(".gguf"):
        return None
    from tunesmith_plugins.models.gguf.find import find

    return find(reference)
