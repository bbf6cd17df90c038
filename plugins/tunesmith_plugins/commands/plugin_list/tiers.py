"""Determine the tier of a plugin: loads, conforms or measured.

*Loads*: the plugin can be imported, and its offers are well formed. *Conforms*: ``tunesmith plugins
check`` passed for exactly the files that are installed. *Measured*: the plugin conforms, and its
package contains ``tunesmith-results.json`` with a command that anyone can run and its results, each
with an interval.
"""

from __future__ import annotations

import json
from contextlib import suppress
from importlib import util
from pathlib import Path
from typing import Any

from tunesmith.offers import FILE_DISTRIBUTION, Plugin

RESULTS_FILE = "tunesmith-results.json"
MAX_RESULTS_BYTES = 4_000_000


def find_tier(plugin: Plugin, inspection_file: Path | None) -> str:
    """Return the tier of a plugin, or "" if the plugin is not active."""
    if plugin.state != "active":
        return ""
    if plugin.is_builtin:
        return "built in"
    if plugin.distribution == FILE_DISTRIBUTION or inspection_file is None:
        return "loads"
    kit = _read(inspection_file.with_suffix(".kit.json"))
    with suppress(TypeError, LookupError):
        if kit[plugin.name]["failed"] == 0 < kit[plugin.name]["passed"]:
            return "measured" if is_measured(plugin) else "conforms"
    return "loads"


def is_measured(plugin: Plugin) -> bool:
    """Return True if a plugin's package has results in the form required by the tier *measured*."""
    package = plugin.module.partition(":")[0].partition(".")[0]
    with suppress(ImportError, ValueError, TypeError, LookupError, AttributeError):
        spec = util.find_spec(package)
        for folder in (spec and spec.submodule_search_locations) or []:
            content = _read(Path(folder) / RESULTS_FILE)
            return bool(content["command"].strip()) and _are_results(content["results"])
    return False


def _are_results(results: Any) -> bool:
    named = all(isinstance(r["metric"], str) and r["metric"] for r in results)
    return bool(results) and named and all(r["low"] <= r["value"] <= r["high"] for r in results)


def _read(path: Path) -> Any:
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= MAX_RESULTS_BYTES:
            return json.loads(path.read_bytes())
    return None
