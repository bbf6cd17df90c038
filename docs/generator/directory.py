"""Build the directory for ``tunesmith plugins list --available`` from contrib/.

A ``kit.json`` next to a ``pyproject.toml`` has the output of ``tunesmith plugins check NAME
--json``.
"""

from __future__ import annotations

import json
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

API_GROUP = "tunesmith.api"


def directory(contrib: Path) -> str:
    """Return the directory as JSON."""
    distributions = [describe(path) for path in sorted(contrib.glob("*/pyproject.toml"))]
    content = {"schema": "tunesmith.plugin-directory/1", "distributions": distributions}
    return json.dumps(content, indent=2) + "\n"


def describe(path: Path) -> dict[str, Any]:
    """Return the entry of a distribution, from its ``pyproject.toml``."""
    project = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
    groups = project["entry-points"]
    kit = path.with_name("kit.json")
    states: Counter[str] | None = None
    if kit.is_file():
        states = Counter(result["state"] for result in json.loads(kit.read_bytes())["results"])
    return {
        "name": project["name"],
        "version": project["version"],
        "summary": project["description"],
        "plugins": sorted(groups["tunesmith"]),
        "requires": project["dependencies"],
        "api": next(iter(groups.get(API_GROUP, {})), ""),
        "kit": states and {state: states[state] for state in ("passed", "failed")},
        "keywords": project.get("keywords", []),
    }
