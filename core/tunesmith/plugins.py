"""Find plugins, load each of them in isolation, and record the result for every one.

The loader of pluggy stops at the first plugin that cannot be imported and silently drops a second
plugin of the same name. Here a broken plugin does not affect the others: it is listed with its
reason, and it is an error only if a run needs it.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import metadata
from itertools import chain
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pluggy

from tunesmith import hookspecs
from tunesmith.errors import PluginError, TunesmithError
from tunesmith.inspections import Installed, read_commands
from tunesmith.offers import FILE_DISTRIBUTION, CommandOffer, Plugin

if TYPE_CHECKING:
    import click

ENTRY_POINT_GROUP = "tunesmith"
Loader = Callable[[], object]


@dataclass(frozen=True)
class Selection:
    """The plugins to load."""

    allowed: frozenset[str] | None = None
    """Allowed third-party plugins, by name of plugin or distribution; None allows all."""
    disabled: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()

    @classmethod
    def from_environment(
        cls, *, disabled: Iterable[str] = (), files: Iterable[str] = ()
    ) -> Selection:
        """Read the allowed plugins from ``TUNESMITH_PLUGINS``, comma-separated; empty: none."""
        names = os.environ.get("TUNESMITH_PLUGINS")
        allowed = None
        if names is not None:
            allowed = frozenset(name.strip() for name in names.split(",") if name.strip())
        return cls(allowed=allowed, disabled=frozenset(disabled), files=tuple(files))

    def block_reason(self, plugin: Plugin) -> str:
        """Return the reason why the plugin is not loaded; empty if it is."""
        names = {plugin.name, plugin.distribution, plugin.full_name}
        if names & self.disabled:
            return "disabled by --no-plugin or [plugins] disable"
        if self.allowed is not None and not plugin.is_builtin and not names & self.allowed:
            return "not in TUNESMITH_PLUGINS"
        return ""


@dataclass
class Plugins:
    """All plugins found. ``manager`` holds the active ones, registered under their full names."""

    manager: pluggy.PluginManager
    found: list[Plugin] = field(default_factory=list)

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

    def call(self, plugin: Plugin, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call one hook implementation with those of the arguments that it accepts.

        Raises:
            TunesmithError: raised by the plugin on purpose.
            PluginError: any other exception of the plugin, with its name, version and line.
        """
        names = inspect.signature(function).parameters
        started = time.perf_counter()
        try:
            result = function(**{name: arguments[name] for name in names if name in arguments})
        except TunesmithError:
            raise
        except (Exception, SystemExit) as error:
            raise PluginError(
                f'plugin "{plugin.full_name}" {plugin.version} failed in '
                f"{function.__name__}: {describe_error(error)}"
            ) from error
        if os.environ.get("TUNESMITH_TRACE"):
            milliseconds = (time.perf_counter() - started) * 1000
            line = (
                f"trace: {plugin.full_name} {function.__name__} {milliseconds:.1f} ms -> {result!r}"
            )
            print(line[:500].encode("ascii", "backslashreplace").decode(), file=sys.stderr)
        return result

    def mark_broken(self, plugin: Plugin, reason: str) -> None:
        """Record that an active plugin does not work."""
        self.found[self.found.index(plugin)] = replace(plugin, state="broken", reason=reason)


def find_installed() -> Installed:
    """Return the installed plugins with their entry points, without importing them.

    Entry-point order is an accident of the file system, so plugins are sorted: built-in, then by
    distribution, then by name.
    """
    found: dict[tuple[str, str], tuple[Plugin, metadata.EntryPoint]] = {}
    # Each access to name or version parses the metadata file of the distribution.
    known: dict[int, tuple[str, str]] = {}
    for entry in metadata.entry_points(group=ENTRY_POINT_GROUP):
        if id(entry.dist) not in known:
            known[id(entry.dist)] = (
                (entry.dist.name, entry.dist.version) if entry.dist else ("unknown", "")
            )
        distribution, version = known[id(entry.dist)]
        plugin = Plugin(
            name=entry.name, distribution=distribution, version=version, module=entry.value
        )
        # An editable install next to a wheel lists the entry twice; the first one is imported.
        found.setdefault((distribution, entry.name), (plugin, entry))
    return sorted(
        found.values(),
        key=lambda pair: (not pair[0].is_builtin, pair[0].distribution, pair[0].name),
    )


def find_plugins(selection: Selection | None = None, *, commands_only: bool = False) -> Plugins:
    """Load every installed plugin that the selection allows, built-in ones first.

    With ``commands_only``, a plugin that was inspected is imported when one of its commands is
    used, and a third-party one that was not inspected is not loaded: its state is "new".
    """
    selection = selection or Selection.from_environment()
    installed = find_installed()
    known = read_commands(installed) if commands_only else {}
    plugins = Plugins(create_manager())
    for plugin, entry in installed:
        commands = known.get(plugin.full_name)
        if reason := selection.block_reason(plugin):
            plugins.found.append(replace(plugin, state="blocked", reason=reason))
        elif commands_only and commands is None and not plugin.is_builtin:
            plugins.found.append(replace(plugin, state="new", reason="not inspected yet"))
        elif commands is not None:
            plugins.found.append(plugin)
            if commands:
                plugins.manager.register(_stand_in(plugin, entry.load, commands), plugin.full_name)
        else:
            plugins.found.append(load_plugin(plugins.manager, plugin, entry.load))
    for plugin, load in _find_files(selection.files):
        if reason := selection.block_reason(plugin):
            plugins.found.append(replace(plugin, state="blocked", reason=reason))
        else:
            plugins.found.append(load_plugin(plugins.manager, plugin, load))
    return plugins


def load_plugin(manager: pluggy.PluginManager, plugin: Plugin, load: Loader) -> Plugin:
    """Load and register a plugin; return it as active, or as broken with the reason."""
    if manager.has_plugin(plugin.full_name):
        reason = f"a plugin already has the name {plugin.full_name}; give the file another one"
        return replace(plugin, state="broken", reason=reason)
    started = time.perf_counter()
    try:
        module = load()
        manager.register(module, plugin.full_name)
        hooks = _check_hooks(manager, module)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # code that is being imported may raise anything
        if manager.has_plugin(plugin.full_name):
            manager.unregister(name=plugin.full_name)
        return replace(plugin, state="broken", reason=describe_error(error))
    return replace(plugin, hooks=hooks, seconds=time.perf_counter() - started)


def create_manager() -> pluggy.PluginManager:
    """Create a manager with the hooks of tunesmith and no plugin."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def missing_requirements(requirements: Sequence[str]) -> list[str]:
    """Return a message for each requirement that is not installed, without importing anything."""
    from packaging.requirements import Requirement

    problems = []
    for text in requirements:
        requirement = Requirement(text)
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


def describe_error(error: BaseException) -> str:
    """Return type, message, file and line of an exception, as one line."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


@contextmanager
def attribute_errors_to(plugin: Plugin) -> Iterator[None]:
    """Turn an unexpected exception of the plugin's code into an error that names the plugin.

    Exceptions that tunesmith defines (a data error, a stopped run) pass unchanged.

    Raises:
        PluginError: with the plugin's name and version and the line that raised.
    """
    try:
        yield
    except TunesmithError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f'plugin "{plugin.full_name}" {plugin.version} failed: {describe_error(error)}',
            hint="run again with --debug for the traceback",
        ) from error


def _stand_in(plugin: Plugin, load: Loader, commands: Mapping[str, str]) -> object:
    """Return a plugin with the same commands, which imports the plugin when one is used."""

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

    @hookspecs.hookimpl
    def tunesmith_commands() -> list[CommandOffer]:
        return [
            CommandOffer(name=name, summary=str(summary), load=partial(load_command, name))
            for name, summary in commands.items()
        ]

    return SimpleNamespace(tunesmith_commands=tunesmith_commands)


def _find_files(files: Sequence[str]) -> Iterator[tuple[Plugin, Loader]]:
    for path in dict.fromkeys(Path(file).resolve() for file in files):

        def load(path: Path = path) -> object:
            spec = importlib.util.spec_from_file_location(f"tunesmith_file_{path.stem}", path)
            if spec is None or spec.loader is None or not path.is_file():
                raise FileNotFoundError(f"no Python file at {path}")
            module = importlib.util.module_from_spec(spec)
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
    """Return the names of the implemented hooks; raise if one is misspelled or a generator."""
    manager.check_pending()
    callers = manager.get_hookcallers(module) or []
    if not callers:
        raise ValueError("it implements no hook of tunesmith")
    for caller in callers:
        for implementation in caller.get_hookimpls():
            if implementation.plugin is module and inspect.isgeneratorfunction(
                implementation.function
            ):
                raise TypeError(f"{caller.name} is a generator; plain functions only")
    return tuple(sorted(caller.name for caller in callers))
