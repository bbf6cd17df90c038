"""The folder for files that can be made again: converted models, tokenized data."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """Return ``TUNESMITH_CACHE``, else the cache folder of the platform."""
    if named := os.environ.get("TUNESMITH_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/tunesmith").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tunesmith"
