"""Base models in GGUF files: ``path/to/model.gguf``, or ``wheel:PACKAGE`` for one inside a wheel.

The file is dequantized once, into a folder of the cache; later runs use that folder.
"""

from __future__ import annotations

from tunesmith.contracts import FoundModel


def find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find a reference that ends in ``.gguf`` or begins with ``wheel:``."""
    if not reference.startswith("wheel:") and not reference.lower().endswith(".gguf"):
        return None
    from tunesmith_plugins.models.gguf.find import find_gguf

    return find_gguf(reference)
