"""Inspect the plugins of a distribution in a child process, with a time limit.

Importing a plugin runs its code, which may be slow, hang, exit or change the process. Therefore a
child process imports the plugins once per version of a distribution, and stores the result in the
cache folder (:mod:`tunesmith.plugins`).
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.errors import TunesmithError
from tunesmith.import_strings import load_entry_point
from tunesmith.offers import KINDS, CommandOffer, Plugin
from tunesmith.plugins import (
    MAX_INSPECTION_BYTES,
    InstalledPlugins,
    Plugins,
    create_manager,
    load_plugin,
)
from tunesmith.storage import write_atomic

SECONDS = 30.0
"""Time limit for importing all plugins of a distribution."""


@dataclass(frozen=True)
class OfferSummary:
    """An offer as it appears in a list."""

    kind: str
    name: str
    summary: str
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inspection:
    """A plugin with its state, and its offers if it could be imported."""

    plugin: Plugin
    offers: tuple[OfferSummary, ...] = ()
    commands: tuple[tuple[str, str, str, int], ...] = ()
    """Name, help line, section and position of each command."""


def inspect_here(installed: InstalledPlugins) -> list[Inspection]:
    """Import plugins in this process, and return their offers."""
    plugins = Plugins(create_manager())
    for plugin, _ in installed:
        load = partial(load_entry_point, plugin.module)
        plugins.found.append(load_plugin(plugins.manager, plugin, load))
    return list_inspections(Catalog(plugins))


def list_inspections(catalog: Catalog) -> list[Inspection]:
    """Return the plugins of a catalog with their offers."""
    offers: dict[str, list[OfferSummary]] = {}
    for kind in KINDS:
        for offered in catalog.offers(kind):
            offer = offered.offer
            summary = OfferSummary(kind.kind, offer.name, str(offer.summary), offer.needs)
            offers.setdefault(offered.plugin.full_name, []).append(summary)
    commands: dict[str, list[tuple[str, str, str, int]]] = {}
    for command in catalog.offers(CommandOffer):
        shown = command.offer
        place = (shown.name, str(shown.summary), shown.section, shown.position)
        commands.setdefault(command.plugin.full_name, []).append(place)
    found = catalog.plugins.found  # read only now: a plugin can fail while it lists its offers
    names = [plugin.full_name for plugin in found]
    lists = [(tuple(offers.get(name, ())), tuple(commands.get(name, ()))) for name in names]
    return [Inspection(plugin, *listed) for plugin, listed in zip(found, lists, strict=True)]


def inspect_elsewhere(installed: InstalledPlugins, seconds: float = SECONDS) -> list[Inspection]:
    """Import the plugins of one distribution in a child process.

    If the process takes too long or ends without a result, all plugins of the distribution count as
    broken.
    """
    import multiprocessing  # Imported here because it is slow, and only needed for new plugins.

    context = multiprocessing.get_context("fork")
    started = time.perf_counter()
    with TemporaryDirectory(prefix="tunesmith-") as folder:
        result = Path(folder) / "result.json"
        process = context.Process(target=_inspect_and_write, args=(installed, result))
        process.start()
        process.join(seconds)
        took = time.perf_counter() - started
        reason = f"importing the plugin ended the process with exit code {process.exitcode}"
        if process.is_alive():
            reason = f"importing the plugin took longer than {seconds:g} seconds"
        with suppress(ProcessLookupError, PermissionError):  # including its child processes
            os.killpg(process.pid or 0, signal.SIGKILL)
        process.join()
        found = read_inspection(result, [plugin for plugin, _ in installed])
    missing = [
        plugin for plugin, _ in installed if plugin.name not in {f.plugin.name for f in found}
    ]
    broken = [replace(p, state="broken", reason=reason, seconds=took) for p in missing]
    return [*found, *(Inspection(plugin) for plugin in broken)]


def read_inspection(path: Path, plugins: Sequence[Plugin]) -> list[Inspection]:
    """Read the inspections of these plugins from the cache file of their distribution.

    Skip plugins whose entry is missing or malformed. Return nothing if the file cannot be read.
    """
    stored: Any = None
    with suppress(OSError, ValueError, RecursionError):
        if path.is_file() and path.stat().st_size <= MAX_INSPECTION_BYTES:
            stored = json.loads(path.read_bytes())
    found = []
    for plugin in plugins:
        with suppress(TypeError, ValueError, LookupError, AttributeError):
            found.append(_parse(plugin, stored[plugin.name]))
    return found


def write_inspection(path: Path, inspections: Sequence[Inspection]) -> None:
    """Write inspections to the cache file of their distribution, ignoring errors."""
    content = {
        found.plugin.name: {
            "state": found.plugin.state,
            "reason": found.plugin.reason,
            "seconds": found.plugin.seconds,
            "hooks": list(found.plugin.hooks),
            "needs": list(found.plugin.needs),
            "offers": [[o.kind, o.name, o.summary, *o.needs] for o in found.offers],
            "commands": found.commands,
        }
        for found in inspections
    }
    with suppress(OSError, TunesmithError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps(content).encode())


def _parse(plugin: Plugin, about: Any) -> Inspection:
    if about["state"] not in ("active", "broken"):
        raise ValueError(about["state"])
    loaded = replace(
        plugin,
        state=about["state"],
        reason=str(about["reason"]),
        seconds=float(about["seconds"]),
        hooks=tuple(map(str, about["hooks"])),
        needs=tuple(map(str, about["needs"])),
    )
    offers = [
        OfferSummary(str(kind), str(name), str(summary), tuple(map(str, needs)))
        for kind, name, summary, *needs in about["offers"]
    ]
    commands = [
        (str(name), str(summary), str(section), int(position))
        for name, summary, section, position in about["commands"]
    ]
    return Inspection(loaded, tuple(offers), tuple(commands))


def _inspect_and_write(installed: InstalledPlugins, path: Path) -> None:
    os.setsid()
    silent = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(silent, stream)
    sys.stdout = sys.stderr = open(silent, "w")  # noqa: SIM115 - open until the process ends
    write_inspection(path, inspect_here(installed))
    os._exit(0)  # Skips exit handlers that the plugin registered.
