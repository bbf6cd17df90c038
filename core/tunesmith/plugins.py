"""Find plugins and load each one separately, so that a broken plugin does not affect the others.

pluggy's own loader stops at the first plugin that cannot be imported, and silently drops a second
plugin with the same name. Here, a broken plugin is listed with the reason, and becomes an error
only if a run needs it.

Importing takes time, so ``tunesmith plugins list`` inspects each new distribution in a separate
process and caches its offers in a file. The command line reads commands from this cache until the
distribution changes. A run does not use the cache: it imports its plugins.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import pluggy

from tunesmith import hookspecs
from tunesmith._version import __version__
from tunesmith.command_offers import BUILTIN_DISTRIBUTION, FILE_DISTRIBUTION, CommandOffer, Plugin
from tunesmith.errors import PluginError, warn_deprecated
from tunesmith.fence import describe_error, fence, hook_seconds, is_of_user, isolate
from tunesmith.import_strings import (
    find_metadata_folders,
    load_entry_point,
    read_entry_points,
    read_name_and_version,
    skip_unreadable_entry_points,
)

if TYPE_CHECKING:
    from pathlib import Path

    import click

ENTRY_POINT_GROUP = "tunesmith"
COMMAND_GROUP = "tunesmith.commands"
"""Entry-point group for plugins that offer commands. Help imports no other built-in plugin."""
API_GROUP = "tunesmith.api"
"""Entry-point group; the name of a distribution's entry in it is its plugin API version."""
API_VERSION = 1
MAX_INSPECTION_BYTES = 4_000_000
"""Maximum size in bytes of a distribution's cache file; larger files are ignored."""
LoadPlugin = Callable[[], object]
InstalledPlugins = list[tuple[Plugin, str]]
"""Plugins, each with the metadata folder of its distribution."""


@dataclass(frozen=True)
class Selection:
    """The plugins to load, selected by the user."""

    allowed: frozenset[str] | None = None
    """Third-party plugins to allow, by name of the plugin or its distribution; None allows all."""
    disabled: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()

    @classmethod
    def from_environment(
        cls, *, disabled: Iterable[str] = (), files: Iterable[str] = ()
    ) -> Selection:
        """Read the allowed plugins from ``TUNESMITH_PLUGINS``, separated by commas.

        If the variable is empty, no plugin is allowed.
        """
        names = os.environ.get("TUNESMITH_PLUGINS")
        listed = frozenset(filter(None, map(str.strip, (names or "").split(","))))
        allowed = None if names is None else listed
        return cls(allowed=allowed, disabled=frozenset(disabled), files=tuple(files))

    def block_reason(self, plugin: Plugin) -> str:
        """Return the reason not to load the plugin; empty if it may be loaded."""
        names = {plugin.name, plugin.distribution, plugin.full_name}
        if names & self.disabled:
            return "disabled by --no-plugin or [plugins] disable"
        if self.allowed is not None and not plugin.is_builtin and not names & self.allowed:
            return "not in TUNESMITH_PLUGINS"
        return ""


@dataclass
class Plugins:
    """All plugins that were found; ``manager`` has the active plugins, under their full names."""

    manager: pluggy.PluginManager
    found: list[Plugin] = field(default_factory=list)
    _notes: list[tuple[Plugin, str]] = field(default_factory=list)

    def active(self) -> Iterator[Plugin]:
        return (plugin for plugin in self.found if plugin.state == "active")

    def broken(self) -> Iterator[Plugin]:
        return (plugin for plugin in self.found if plugin.state == "broken")

    def implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., Any]]]:
        """Yield the active plugins that implement a hook, third parties before built-in ones."""
        by_name = {plugin.full_name: plugin for plugin in self.active()}
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            if implementation.plugin_name in by_name:
                yield by_name[implementation.plugin_name], implementation.function

    def call(
        self,
        plugin: Plugin,
        function: Callable[..., Any],
        arguments: dict[str, Any],
        *,
        guards_state: bool | None = None,
        has_rows: bool = False,
    ) -> Any:
        """Call one hook implementation with the arguments that it accepts.

        Args:
            guards_state: True restores the global state; None does so unless the plugin is built
                in.
            has_rows: True if the hook gets the rows of a run; it may then take longer.

        Raises:
            TunesmithError: the plugin raised this error on purpose.
            PluginError: the plugin raised another exception, or took too long. The message names
                the plugin, its version and the line.
        """
        names = inspect.signature(function).parameters
        started = time.perf_counter()
        # Built-in hooks are tested to terminate; those that compare all rows may take long.
        seconds = None if plugin.is_builtin else hook_seconds(has_rows=has_rows)
        # A note about a long call takes a thread; help calls many hooks that only return offers.
        is_quick = plugin.is_builtin and not arguments
        name = function.__name__
        with fence(
            plugin, name, seconds=seconds, guards_state=guards_state, may_take_long=is_quick
        ) as changes:
            result = function(**{name: arguments[name] for name in names if name in arguments})
            result = [*result] if inspect.isgenerator(result) else result
        if changes:
            self.note(plugin, f"{name} changed {', '.join(changes)}; the change was undone")
        if os.environ.get("TUNESMITH_TRACE"):
            ms = (time.perf_counter() - started) * 1000
            line = f"trace: {plugin.full_name} {function.__name__} {ms:.1f} ms -> {result!r}"
            print(line[:500].encode("ascii", "backslashreplace").decode(), file=sys.stderr)
        return result

    def note(self, plugin: Plugin, text: str) -> None:
        """Keep a note about what a plugin did; :meth:`take_notes` returns it later."""
        self._notes.append((plugin, text))

    def take_notes(self, plugin: Plugin | None = None) -> list[tuple[Plugin, str]]:
        """Return and delete the notes about one plugin, or about all plugins."""
        taken = [pair for pair in self._notes if plugin is None or pair[0] == plugin]
        self._notes = [pair for pair in self._notes if pair not in taken]
        return taken

    def mark_broken(self, plugin: Plugin, reason: str) -> None:
        """Record that an active plugin does not work."""
        self.found[self.found.index(plugin)] = replace(plugin, state="broken", reason=reason)


def find_installed(*, commands_only: bool = False) -> InstalledPlugins:
    """Return the installed plugins with their metadata folders, without importing them.

    Entry points have no defined order, so plugins are sorted: built-in plugins first, then by
    distribution and name. ``commands_only`` leaves out built-in plugins that offer no command.
    """
    found: dict[str, tuple[Plugin, str]] = {}
    unreadable: InstalledPlugins = []
    for folder in find_metadata_folders():
        try:
            groups = read_entry_points(folder)
        except (OSError, ValueError) as error:
            unreadable.append((_describe_unreadable(folder, error), folder))
            continue
        if not groups.keys() & {ENTRY_POINT_GROUP, COMMAND_GROUP}:
            continue
        distribution, version = read_name_and_version(folder)
        skips = commands_only and distribution == BUILTIN_DISTRIBUTION
        others = {} if skips else groups.get(ENTRY_POINT_GROUP, {})
        for name, module in {**others, **groups.get(COMMAND_GROUP, {})}.items():
            plugin = Plugin(
                name=name,
                distribution=distribution,
                version=version,
                module=module,
                api=next(iter(groups.get(API_GROUP, ())), ""),
            )
            found.setdefault(plugin.full_name, (plugin, folder))
    if unreadable:
        skip_unreadable_entry_points()
    ordered = sorted(found.values(), key=lambda pair: (not pair[0].is_builtin, pair[0].full_name))
    return [*ordered, *unreadable]


def find_plugins(selection: Selection | None = None, *, commands_only: bool = False) -> Plugins:
    """Load every installed plugin that the selection allows, built-in ones first.

    With ``commands_only``, an inspected plugin is imported only when one of its commands is used.
    Then a third-party plugin that was not inspected is not loaded: its state is "new".
    """
    selection = selection or Selection.from_environment()
    installed = find_installed(commands_only=commands_only)
    others = [pair for pair in installed if not pair[0].is_builtin]
    known = read_commands(others) if commands_only and others else {}
    plugins = Plugins(create_manager())
    loaders: list[tuple[Plugin, LoadPlugin]] = [
        (plugin, partial(load_entry_point, plugin.module)) for plugin, _ in installed
    ]
    for plugin, load in [*loaders, *_find_files(selection.files)]:
        if plugin.state == "broken":
            plugins.found.append(plugin)
        elif reason := selection.block_reason(plugin):
            plugins.found.append(replace(plugin, state="blocked", reason=reason))
        elif commands := known.get(plugin.full_name):
            plugins.manager.register(_stand_in(plugin, load, commands), plugin.full_name)
            plugins.found.append(plugin)
        elif plugin.full_name in known:
            plugins.found.append(plugin)
        elif commands_only and plugin.distribution not in (BUILTIN_DISTRIBUTION, FILE_DISTRIBUTION):
            plugins.found.append(replace(plugin, state="new", reason="not inspected yet"))
        else:
            changes: list[str] = []
            loaded = load_plugin(plugins.manager, plugin, load, changes)
            plugins.found.append(loaded)
            if changes:
                plugins.note(
                    loaded, f"its import changed {', '.join(changes)}; the change was undone"
                )
    return plugins


def cache_folder() -> Path:
    """Return ``TUNESMITH_CACHE``, or the platform's cache folder if it is unset."""
    from tunesmith.machine import expand_home, user_folder

    if named := os.environ.get("TUNESMITH_CACHE"):
        return expand_home(named)
    if sys.platform == "darwin":
        return user_folder("", "~/Library/Caches")
    return user_folder("XDG_CACHE_HOME", "~/.cache")


def inspection_files(installed: InstalledPlugins) -> dict[str, Path]:
    """Return the path of each distribution's cache file; the file may not exist.

    Its name depends on the environment, on tunesmith, and on the distribution: on its checksums
    (RECORD), or on its sources if it is editable or has no RECORD.
    """
    distributions: dict[str, InstalledPlugins] = {}
    for plugin, metadata_folder in installed:
        if plugin.state != "broken":
            name = re.sub(r"[^\w.-]", "_", plugin.distribution)
            distributions.setdefault(name, []).append((plugin, metadata_folder))
    folder = cache_folder() / "plugins"
    return {
        name: folder / f"{name}-{_checksum(pairs[0][1], [p.module for p, _ in pairs])}.json"
        for name, pairs in distributions.items()
    }


def read_commands(installed: InstalledPlugins) -> dict[str, list[tuple[str, str, str, int]]]:
    """Return the commands of each inspected plugin, by full name.

    A command is its name, help line, section and position, as in a ``CommandOffer``. A cache file
    that cannot be read or is damaged is ignored.
    """
    import json

    known: dict[str, list[tuple[str, str, str, int]]] = {}
    for distribution, path in inspection_files(installed).items():
        with suppress(OSError, ValueError, RecursionError, TypeError, LookupError, AttributeError):
            if path.is_file() and path.stat().st_size <= MAX_INSPECTION_BYTES:
                for name, about in json.loads(path.read_bytes()).items():
                    known[f"{distribution}:{name}"] = [
                        (str(word), str(summary), str(section), int(position))
                        for word, summary, section, position in about["commands"]
                    ]
    return known


def load_plugin(
    manager: pluggy.PluginManager,
    plugin: Plugin,
    load: LoadPlugin,
    changes: list[str] | None = None,
) -> Plugin:
    """Load and register a plugin; return it with the state active, or broken and the reason.

    Changes that the import makes to global state are added to ``changes``.
    """
    if manager.has_plugin(plugin.full_name):
        reason = f"another plugin already has the name {plugin.full_name}; rename the file"
        return replace(plugin, state="broken", reason=reason)
    if plugin.api not in ("", str(API_VERSION)):
        reason = f"it needs version {plugin.api} of the plugin API, but this tunesmith has version "
        reason += f"{API_VERSION}: install versions of both that match"
        return replace(plugin, state="broken", reason=reason)
    if not plugin.api and plugin.distribution not in (BUILTIN_DISTRIBUTION, FILE_DISTRIBUTION):
        what = f'plugin "{plugin.full_name}", which declares no version of the plugin API,'
        warn_deprecated(what, f"declare it in the group {API_GROUP} of entry points", since="0.1")
    started = time.perf_counter()
    # Built-in plugins are tested to change nothing on import, and help needs them quickly.
    seconds = None if plugin.is_builtin else hook_seconds()
    try:
        with isolate(
            plugin,
            "its import",
            seconds=seconds,
            may_take_long=plugin.is_builtin,
        ) as changed:
            module = load()
        if changes is not None:
            changes += changed
        manager.register(module, plugin.full_name)
        hooks = _check_hooks(manager, module)
        needs = tuple(map(str, vars(module).get("NEEDS", ())))
    except BaseException as error:  # an import can raise anything
        if is_of_user(error):
            raise
        if manager.has_plugin(plugin.full_name):
            manager.unregister(name=plugin.full_name)
        return replace(plugin, state="broken", reason=describe_error(error))
    seconds = time.perf_counter() - started
    return replace(plugin, hooks=hooks, needs=needs, seconds=seconds)


def create_manager() -> pluggy.PluginManager:
    """Create a plugin manager with the hooks of tunesmith, without plugins."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def missing_requirements(requirements: Iterable[str]) -> list[str]:
    """Return a message for each requirement that is not met, without importing anything."""
    from importlib import metadata

    from packaging.requirements import InvalidRequirement, Requirement

    problems = []
    for text in requirements:
        try:
            requirement = Requirement(text)
        except InvalidRequirement:
            problems.append(f"{text} is not a valid requirement")
            continue
        if requirement.marker is not None and not requirement.marker.evaluate():
            continue
        try:
            version = metadata.version(requirement.name)
        except metadata.PackageNotFoundError:
            problems.append(f"{text} is not installed")
            continue
        if not requirement.specifier.contains(version, prereleases=True):
            problems.append(f"{text} is needed, but version {version} is installed")
    return problems


def _checksum(metadata_folder: str, modules: Iterable[str]) -> str:
    import hashlib
    from importlib import util
    from pathlib import Path

    record, origin = (_read(metadata_folder, name) for name in ("RECORD", "direct_url.json"))
    digest = hashlib.sha256(f"{__version__} {sys.version} {sys.prefix} {record}".encode())
    if not record or re.search(r'"editable":\s*true', origin):
        for package in sorted({re.split(r"[.:\s]", module)[0] for module in modules}):
            with suppress(OSError, ValueError, ImportError):
                spec = util.find_spec(package)
                for folder in (spec and spec.submodule_search_locations) or []:
                    for path in sorted(Path(folder).rglob("*.py")):
                        digest.update(path.read_bytes())
    return digest.hexdigest()[:40]


def _read(metadata_folder: str, name: str) -> str:
    with suppress(OSError, ValueError), open(f"{metadata_folder}/{name}", encoding="utf-8") as file:
        return file.read()
    return ""


def _stand_in(
    plugin: Plugin, load: LoadPlugin, commands: Iterable[tuple[str, str, str, int]]
) -> object:
    """Return a plugin with the same commands; using a command imports the real plugin."""

    def load_command(name: str) -> click.Command:
        manager = create_manager()
        loaded = load_plugin(manager, plugin, load)
        offers: Iterable[CommandOffer] = chain(*manager.hook.tunesmith_commands())
        for offer in offers:
            if offer.name == name:
                return offer.load()
        reason = loaded.reason or f'it no longer offers the command "{name}"'
        raise PluginError(
            f'plugin "{plugin.full_name}" {plugin.version} cannot be used: {reason}',
            hint="`tunesmith plugins list --refresh` inspects all plugins again",
        )

    offers = [
        CommandOffer(
            name=name,
            summary=summary,
            load=partial(load_command, name),
            section=section,
            position=position,
        )
        for name, summary, section, position in commands
    ]
    return hookspecs.lazy_plugin(__name__, tunesmith_commands=offers)


def _describe_unreadable(folder: str, error: Exception) -> Plugin:
    name, version = read_name_and_version(folder)
    reason = f"{folder}/entry_points.txt cannot be read, so its plugins are unknown: "
    reason += describe_error(error)
    return Plugin(
        name=name, distribution=name, version=version, module="", state="broken", reason=reason
    )


def _find_files(files: Sequence[str]) -> Iterator[tuple[Plugin, LoadPlugin]]:
    if not files:
        return
    from pathlib import Path

    for path in dict.fromkeys(Path(file).resolve() for file in files):

        def load(path: Path = path) -> object:
            from importlib import util

            spec = util.spec_from_file_location(f"tunesmith_file_{path.stem}", path)
            if spec is None or spec.loader is None or not path.is_file():
                raise FileNotFoundError(f"no Python file at {path}")
            module = util.module_from_spec(spec)
            # pydantic and dataclasses resolve annotations in the module of this name.
            sys.modules[spec.name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[spec.name]
                raise
            return module

        yield (
            Plugin(name=path.stem, distribution=FILE_DISTRIBUTION, version="", module=str(path)),
            load,
        )


def _check_hooks(manager: pluggy.PluginManager, module: object) -> tuple[str, ...]:
    """Return the names of the implemented hooks; raise an error if there are none.

    Raises:
        PluginValidationError: a function looks like a hook, but has a wrong name or argument.
    """
    manager.check_pending()
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise ValueError("the plugin does not implement any tunesmith hook")
    return tuple(sorted(caller.name for caller in callers))
