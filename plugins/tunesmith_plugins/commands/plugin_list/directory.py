"""Search the directory of plugins, which is shipped with tunesmith and works offline."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict


class ListedDistribution(BaseModel):
    """A plugin distribution in the directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    summary: str
    plugins: list[str]
    """Names of the distribution's entry points."""
    requires: list[str]
    api: str
    """Plugin API version that the distribution declares, or "" if it declares none."""
    kit: dict[str, int] | None
    """Number of conformance checks passed and failed, or None if not recorded."""
    keywords: list[str]


def read_directory() -> list[ListedDistribution]:
    """Return all distributions in the directory."""
    package = resources.files("tunesmith_plugins.commands.plugin_list")
    content: dict[str, Any] = json.loads(package.joinpath("directory.json").read_bytes())
    return [ListedDistribution.model_validate(item) for item in content["distributions"]]


def search_directory(words: Sequence[str]) -> list[ListedDistribution]:
    """Return the distributions whose name, summary, plugins or keywords contain all words."""
    wanted = [word.casefold() for word in words]
    found = []
    for listed in read_directory():
        text = " ".join([listed.name, listed.summary, *listed.plugins, *listed.keywords]).casefold()
        if all(word in text for word in wanted):
            found.append(listed)
    return found
