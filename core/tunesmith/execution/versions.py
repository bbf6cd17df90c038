"""Versions of what decides a run's numbers. Read from metadata: nothing is imported."""

from __future__ import annotations

import platform
import sys
from importlib import metadata

from tunesmith._version import __version__

LIBRARIES = ("torch", "transformers", "peft", "safetensors", "bitsandbytes", "numpy")


def versions() -> dict[str, str]:
    """Of tunesmith, Python, the libraries that are installed, and the platform."""
    found = {"tunesmith": __version__, "python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {**found, "platform": f"{sys.platform} {platform.machine()}"}
