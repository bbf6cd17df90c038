"""Collect the versions of the libraries that affect results, without importing them."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from tunesmith._version import __version__

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "bitsandbytes", "numpy")


def collect_versions() -> dict[str, str]:
    """Return the versions of tunesmith, Python and installed libraries, and the platform."""
    installed = {"tunesmith": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            installed[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**installed, "platform": f"{sys.platform} {platform.machine()}"}
