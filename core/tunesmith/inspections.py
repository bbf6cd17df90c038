"""Remember what inspected distributions offer, so that help imports no plugin.

``tunesmith plugins list`` imports a new distribution in another process, with a time limit, and
writes what it offers into a file of the cache folder. Commands come from there until the
distribution changes. A run never reads it: a run imports its plugins.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata, util
from pathlib import Path

from tunesmith._version import __version__
from tunesmith.offers import Plugin

LARGEST_FILE = 4_000_000
Installed = list[tuple[Plugin, metadata.EntryPoint]]


def cache_folder() -> Path:
    """Return ``TUNESMITH_CACHE``, else the cache folder of the platform."""
    if named := os.environ.get("TUNESMITH_CACHE"):
        return Path(named).expanduser()
    if sys.platform == "darwin":
        return Path("~/Library/Caches/tunesmith").expanduser()
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "tunesmith"


def inspection_files(installed: Installed) -> dict[str, Path]:
    """Return the file, which may not exist, for what each distribution offers.

    Its name changes with the environment, with tunesmith, and with the distribution: with its
    checksums (RECORD), or with its sources if it is editable or has none.
    """
    entries: dict[str, list[metadata.EntryPoint]] = {}
    for plugin, entry in installed:
        entries.setdefault(re.sub(r"[^\w.-]", "_", plugin.distribution), []).append(entry)
    folder = cache_folder() / "plugins"
    return {name: folder / f"{name}-{_checksum(same)}.json" for name, same in entries.items()}


def read_commands(installed: Installed) -> dict[str, Mapping[str, str]]:
    """Return the help lines of the commands of each inspected plugin, by its full name.

    A file that cannot be read, or is not as it should be, counts as none.
    """
    known: dict[str, Mapping[str, str]] = {}
    for distribution, path in inspection_files(installed).items():
        with suppress(OSError, ValueError, RecursionError, TypeError, LookupError, AttributeError):
            if path.is_file() and path.stat().st_size <= LARGEST_FILE:
                for name, about in json.loads(path.read_bytes()).items():
                    known[f"{distribution}:{name}"] = dict(about["commands"])
    return known


def _checksum(entries: list[metadata.EntryPoint]) -> str:
    read = entries[0].dist.read_text if entries[0].dist else lambda name: None
    record, origin = read("RECORD") or "", read("direct_url.json") or ""
    digest = hashlib.sha256(f"{__version__} {sys.version} {sys.prefix} {record}".encode())
    if not record or re.search(r'"editable":\s*true', origin):
        for package in sorted({re.split(r"[.:\s]", entry.value)[0] for entry in entries}):
            with suppress(OSError, ValueError, ImportError):
                spec = util.find_spec(package)
                for folder in (spec and spec.submodule_search_locations) or []:
                    for path in sorted(Path(folder).rglob("*.py")):
                        digest.update(path.read_bytes())
    return digest.hexdigest()[:40]
