"""The directory of plugins, which is a part of tunesmith: nothing is asked over the network."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any

from pydantic import BaseModel, ConfigDict


class Listed(BaseModel):
    """A distribution of plugins, as it is listed in the directory."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    version: str
    summary: str
    plugins: list[str]
    """Names of its entry points."""
    requires: list[str]
    api: str
    """Version of the plugin API that it declares; empty: none."""
    kit: dict[str, int] | None
    """Numbers of checks of the conformance kit that it passed and failed; None: not recorded."""
    keywords: list[str]


def read_directory() -> list[Listed]:
    """Return all distributions of the directory."""
    package = resources.files("tunesmith_plugins.commands.plugin_install")
    content: dict[str, Any] = json.loads(package.joinpath("directory.json").read_bytes())
    return [Listed.model_validate(item) for item in content["distributions"]]


def search(words: list[str]) -> list[Listed]:
    """Return the distributions in which each word occurs, whatever its case."""
    wanted = [word.casefold() for word in words]
    found = []
    for listed in read_directory():
        text = " ".join([listed.name, listed.summary, *listed.plugins, *listed.keywords]).casefold()
        if all(word in text for word in wanted):
            found.append(listed)
    return found
