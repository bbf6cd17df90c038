"""Base models in GGUF files: ``path/to/model.gguf``, or ``wheel:PACKAGE`` for one in a wheel.

Each file is dequantized once, into a cache folder that later runs use.
"""

from __future__ import annotations

from tunesmith.contracts import FoundModel


def find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Find the model if the reference ends with ``.gguf`` or starts with ``wheel:``."""
    if not reference.startswith("wheel:") and not reference.lower().endswith(".gguf"):
        return None
    from tunesmith_plugins.models.gguf.find import find_gguf

    return find_gguf(reference)
