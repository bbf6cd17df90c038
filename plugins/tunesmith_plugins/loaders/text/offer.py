"""Offer the ``text`` data loader."""

from __future__ import annotations

import os

from tunesmith.offers import DataLoaderOffer
from tunesmith_data import make_suffix_matcher
from tunesmith_plugins.loaders.text.options import CODE, DOCUMENTS, PROSE, TextOptions

_has_suffix = make_suffix_matcher(*PROSE, *CODE, *DOCUMENTS)


def recognizes(name: str) -> bool:
    """Return True for a folder, or a file with a suffix of text, code or documents."""
    return _has_suffix(name) or os.path.isdir(name)


TEXT = DataLoaderOffer(
    name="text",
    summary="text, Markdown, source code, PDF and Word documents, in files and folders",
    config=TextOptions,
    build="tunesmith_plugins.loaders.text.loader:TextLoader",
    recognizes=recognizes,
)
