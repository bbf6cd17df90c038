"""``tunesmith plugins search``: search the directory of plugins."""

from __future__ import annotations

import click

from tunesmith_cli import render
from tunesmith_cli.common import common_options, json_option
from tunesmith_plugins.commands.plugin_install.directory import search_directory
from tunesmith_plugins.commands.plugin_install.pip import find_installed_version

HOW_TO_INSTALL = (
    "these plugins are in tunesmith's source repository and not on a package index, where "
    "anybody can register their names; install them from a checkout: tunesmith plugins install "
    "./contrib/NAME"
)


@click.command("search")
@click.argument("words", metavar="[WORD]...", nargs=-1)
@json_option
@common_options
def command(words: tuple[str, ...], as_json: bool) -> None:
    """Search the plugin directory offline; without WORD, list all plugins.

    Each WORD must occur in the name, the summary, a keyword or the name of a component.
    """
    found = search_directory([*words])
    if as_json:
        items = [
            item.model_dump() | {"installed": find_installed_version(item.name)} for item in found
        ]
        render.print_json({"schema": "tunesmith.plugin-directory/1", "distributions": items})
        return
    if found:
        headers = ["distribution", "version", "installed", "plugins", "summary"]
        rows = [
            [
                i.name,
                i.version,
                find_installed_version(i.name) or "",
                ", ".join(i.plugins),
                i.summary,
            ]
            for i in found
        ]
        render.print_table(headers, rows)
    render.print_note(HOW_TO_INSTALL if found else "no plugin found")
