"""List the plugins in the directory (``tunesmith plugins list --available``)."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import metadata

from tunesmith_cli import render
from tunesmith_plugins.commands.plugin_list.directory import search_directory

HOW_TO_INSTALL = (
    "these plugins are in tunesmith's source repository, not on a package index, where anybody can "
    "own the same name; install them from a checkout: tunesmith plugins install ./contrib/NAME"
)


def list_available(words: Sequence[str], *, as_json: bool) -> None:
    """Print the distributions of the directory that match every word, as a table or as JSON."""
    found = search_directory(words)
    installed = {d.name: d.version for d in metadata.distributions()}
    if as_json:
        items = [item.model_dump() | {"installed": installed.get(item.name)} for item in found]
        render.print_json({"schema": "tunesmith.plugin-directory/1", "distributions": items})
        return
    if found:
        headers = ["distribution", "version", "installed", "plugins", "summary"]
        rows = [
            [
                i.name,
                i.version,
                installed.get(i.name, ""),
                ", ".join(i.plugins),
                i.summary,
            ]
            for i in found
        ]
        render.print_table(headers, rows)
    render.print_note(HOW_TO_INSTALL if found else "no plugin in the directory matches")
