"""Find base models in GGUF files (``path/to/model.gguf``), also in wheels (``wheel:PACKAGE``).

The first run dequantizes a file into a cache folder, and later runs use that folder.
"""

from __future__ import annotations

from tunesmith.contracts import FoundModel


def find_model(reference: str, revision: str | None) -> FoundModel | None:
    """Return the model if the reference ends with ``.gguf`` or starts with ``wheel:``."""
    if not reference.startswith("wheel:") and not reference.lower().endswith(".gguf"):
        return None
    from tunesmith_plugins.models.gguf.find import find_gguf

    return find_gguf(reference)
