"""Remember which plugins passed the conformance kit, as long as their files do not change."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.errors import TunesmithError
from tunesmith.offers import Plugin
from tunesmith.plugins import find_installed, inspection_files
from tunesmith.storage import write_atomic
from tunesmith.testing.kit import Result


def remember_results(plugin: Plugin, results: Sequence[Result]) -> None:
    """Store in the cache folder how many checks a plugin passed and failed.

    ``tunesmith plugins list`` shows the numbers until the plugin's distribution changes. If the
    folder is not writable, nothing is stored.
    """
    installed = [pair for pair in find_installed() if pair[0].distribution == plugin.distribution]
    for path in map(kit_file, inspection_files(installed).values()):
        stored: Any = None
        with suppress(OSError, ValueError, RecursionError):
            stored = json.loads(path.read_bytes())
        counts = Counter(result.state for result in results)
        content = stored if isinstance(stored, dict) else {}
        content[plugin.name] = {state: counts[state] for state in ("passed", "failed")}
        with suppress(OSError, TunesmithError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, json.dumps(content).encode())


def kit_file(inspection_file: Path) -> Path:
    """Return the path of the file for a plugin's kit results."""
    return inspection_file.with_suffix(".kit.json")
