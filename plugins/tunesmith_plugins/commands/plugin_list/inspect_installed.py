"""Inspect the distributions that are new or have changed, and list all plugins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import groupby

from tunesmith.catalog import Catalog
from tunesmith.offers import FILE_DISTRIBUTION
from tunesmith.plugins import Installed, Selection, find_installed, find_plugins, inspection_files
from tunesmith_plugins.commands.plugin_list.inspect_distribution import (
    Inspection,
    inspect_elsewhere,
    inspect_here,
    list_inspections,
    read_inspection,
    write_inspection,
)

QUICK = 1.0
"""A plugin that failed within this many seconds is inspected each time: what it lacks may have been
installed since."""


def inspect_installed(
    selection: Selection, *, refresh: bool, report: Callable[[str], None]
) -> tuple[list[Inspection], Catalog]:
    """Return all plugins as they were inspected, and a catalog of their commands.

    Args:
        refresh: inspect again what was inspected before.
        report: is called with a text before a distribution is imported in another process.
    """
    installed = find_installed()
    files = inspection_files(installed)
    listed = []
    for distribution, group in groupby(installed, lambda pair: pair[0].distribution):
        pairs = [*group]
        chosen = [pair for pair in pairs if not selection.block_reason(pair[0])]
        known = read_inspection(files[distribution], [plugin for plugin, _ in chosen])
        if refresh or _is_outdated(known, chosen):
            known = _inspect(chosen, report)
            write_inspection(files[distribution], known)
        by_name = {found.plugin.name: found for found in known}
        for plugin, _ in pairs:
            reason = selection.block_reason(plugin)
            blocked = Inspection(replace(plugin, state="blocked", reason=reason))
            listed.append(blocked if reason else by_name[plugin.name])
    catalog = Catalog(find_plugins(selection, commands_only=True))
    files_only = list_inspections(catalog) if selection.files else []
    listed += [i for i in files_only if i.plugin.distribution == FILE_DISTRIBUTION]
    return listed, catalog


def _is_outdated(known: list[Inspection], chosen: Installed) -> bool:
    broken = [found.plugin for found in known if found.plugin.state == "broken"]
    return len(known) < len(chosen) or any(plugin.seconds < QUICK for plugin in broken)


def _inspect(chosen: Installed, report: Callable[[str], None]) -> list[Inspection]:
    plugin, _ = chosen[0]
    if plugin.is_builtin:
        return inspect_here(chosen)
    report(f"inspecting {plugin.distribution} {plugin.version}")
    return inspect_elsewhere(chosen)
