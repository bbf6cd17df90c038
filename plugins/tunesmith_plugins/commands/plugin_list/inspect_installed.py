"""Inspect new and changed distributions, and list all installed plugins."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path

from tunesmith.catalog import Catalog
from tunesmith.offers import FILE_DISTRIBUTION
from tunesmith.plugins import InstalledPlugins, Selection, find_installed, inspection_files
from tunesmith_plugins.commands.plugin_list.inspect_distribution import (
    Inspection,
    inspect_elsewhere,
    inspect_here,
    list_inspections,
    read_inspection,
    write_inspection,
)

MAX_QUICK_SECONDS = 1.0
"""A plugin that failed within this many seconds is inspected again each time.

A missing requirement may have been installed since.
"""


@dataclass
class InspectedPlugins:
    """The inspections of all installed plugins, and the cache files they came from."""

    inspections: list[Inspection] = field(default_factory=list)
    files: dict[str, Path] = field(default_factory=dict)
    """Cache file of each distribution, by name."""
    is_new: bool = False
    """True if a distribution had to be inspected, because it was new or changed."""


def inspect_installed(
    selection: Selection, *, refresh: bool, report: Callable[[str], None]
) -> InspectedPlugins:
    """Return the inspections of all installed plugins, inspecting those that are not in the cache.

    Args:
        refresh: True to ignore the cache.
        report: called with a text before a distribution is imported in a child process.
    """
    installed = find_installed()
    found = InspectedPlugins(files=inspection_files(installed))
    for distribution, group in groupby(installed, lambda pair: pair[0].distribution):
        pairs = [*group]
        if pairs[0][0].state == "broken":  # unreadable entry points
            found.inspections += [Inspection(plugin) for plugin, _ in pairs]
            continue
        chosen = [pair for pair in pairs if not selection.block_reason(pair[0])]
        path = found.files[distribution]
        known = read_inspection(path, [plugin for plugin, _ in chosen])
        if refresh or _is_outdated(known, chosen):
            known = _inspect(chosen, report)
            write_inspection(path, known)
            found.is_new = True
        by_name = {inspection.plugin.name: inspection for inspection in known}
        for plugin, _ in pairs:
            reason = selection.block_reason(plugin)
            blocked = Inspection(replace(plugin, state="blocked", reason=reason))
            found.inspections.append(blocked if reason else by_name[plugin.name])
    return found


def inspect_files(catalog: Catalog) -> list[Inspection]:
    """Return the inspections of plugins loaded from single files (``--plugin``)."""
    files = [p for p in catalog.plugins.found if p.distribution == FILE_DISTRIBUTION]
    found = list_inspections(catalog) if files else []
    return [i for i in found if i.plugin.distribution == FILE_DISTRIBUTION]


def _is_outdated(known: list[Inspection], chosen: InstalledPlugins) -> bool:
    broken = [found.plugin for found in known if found.plugin.state == "broken"]
    return len(known) < len(chosen) or any(plugin.seconds < MAX_QUICK_SECONDS for plugin in broken)


def _inspect(chosen: InstalledPlugins, report: Callable[[str], None]) -> list[Inspection]:
    plugin, _ = chosen[0]
    if plugin.is_builtin:
        return inspect_here(chosen)
    report(f"inspecting {plugin.distribution} {plugin.version}")
    return inspect_elsewhere(chosen)
