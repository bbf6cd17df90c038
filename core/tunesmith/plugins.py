"""Find plugins, load each in isolation, and keep an account of what happened to every one.

pluggy's own loader stops at the first plugin that cannot be imported and drops a second plugin of
the same name without a word. Here one broken plugin harms nobody: it is listed with its reason, and
it is an error only where a run needs it.
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
from importlib import metadata
from pathlib import Path
from typing import Any

import pluggy

from tunesmith import hookspecs
from tunesmith.errors import PluginError, TunesmithError
from tunesmith.offered import FILES, Plugin

GROUP = "tunesmith"


@dataclass(frozen=True)
class Selection:
    """Which plugins to load."""

    only: frozenset[str] | None = None
    """Third-party plugins allowed (by plugin or distribution name); None allows all."""
    disabled: frozenset[str] = frozenset()
    files: tuple[str, ...] = ()

    @classmethod
    def from_environment(
        cls, *, disabled: Iterable[str] = (), files: Iterable[str] = ()
    ) -> Selection:
        """What ``TUNESMITH_PLUGINS`` allows: a comma-separated list; empty allows none."""
        allowed = os.environ.get("TUNESMITH_PLUGINS")
        only = None
        if allowed is not None:
            only = frozenset(name.strip() for name in allowed.split(",") if name.strip())
        return cls(only=only, disabled=frozenset(disabled), files=tuple(files))

    def blocks(self, plugin: Plugin) -> str:
        """Why the plugin is left out; empty when it is not."""
        names = {plugin.name, plugin.distribution, plugin.full_name}
        if names & self.disabled:
            return "disabled by --no-plugin or [plugins] disable"
        if self.only is not None and not plugin.builtin and not names & self.only:
            return "not in TUNESMITH_PLUGINS"
        return ""


@dataclass
class Plugins:
    """What was found. ``manager`` holds the active ones, registered under their full names."""

    manager: pluggy.PluginManager
    found: list[Plugin] = field(default_factory=list)

    def active(self) -> Iterator[Plugin]:
        return (plugin for plugin in self.found if plugin.state == "active")

    def broken(self) -> Iterator[Plugin]:
        return (plugin for plugin in self.found if plugin.state == "broken")

    def implementations(self, hook: str) -> Iterator[tuple[Plugin, Callable[..., Any]]]:
        """Active plugins that implement the hook, third parties before built-ins."""
        by_name = {plugin.full_name: plugin for plugin in self.active()}
        for implementation in reversed(getattr(self.manager.hook, hook).get_hookimpls()):
            if implementation.plugin_name in by_name:
                yield by_name[implementation.plugin_name], implementation.function

    def call(self, plugin: Plugin, function: Callable[..., Any], arguments: dict[str, Any]) -> Any:
        """Call one hook implementation with the arguments that it asks for.

        Raises:
            PluginError: whatever else the plugin raised, with its name, version and line.
            TunesmithError: what it raised on purpose.
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
                f"{function.__name__}: {describe(error)}"
            ) from error
        if os.environ.get("TUNESMITH_TRACE"):
            spent = (time.perf_counter() - started) * 1000
            line = f"trace: {plugin.full_name} {function.__name__} {spent:.1f} ms -> {result!r}"
            print(line[:500].encode("ascii", "backslashreplace").decode(), file=sys.stderr)
        return result

    def module(self, name: str) -> tuple[Plugin, Any]:
        """A plugin by its own or its distribution's name, and its module.

        Raises:
            PluginError: there is none, it is broken or blocked, or the name says too little.
        """
        named = [p for p in self.found if name in (p.name, p.full_name, p.distribution)]
        if len(named) != 1:
            names = ", ".join(p.full_name for p in named or self.found)
            what = "more than one plugin is" if named else "no plugin is"
            raise PluginError(f'{what} named "{name}"', hint=f"there are {names}")
        plugin = named[0]
        if plugin.state != "active":
            what = f'plugin "{plugin.full_name}" {plugin.version} is {plugin.state}'
            raise PluginError(f"{what}: {plugin.reason}")
        return plugin, self.manager.get_plugin(plugin.full_name)

    def mark_broken(self, plugin: Plugin, reason: str) -> None:
        """Record that an active plugin turned out not to work."""
        self.found[self.found.index(plugin)] = replace(plugin, state="broken", reason=reason)


def find(selection: Selection | None = None) -> Plugins:
    """Load every installed plugin that the selection allows, built-in ones first.

    Entry-point order is an accident of the file system, so plugins are sorted: built-in, then by
    distribution, then by name.
    """
    chosen = selection or Selection.from_environment()
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for plugin, load in [*_installed(), *_from_files(chosen.files)]:
        reason = chosen.blocks(plugin)
        if reason:
            plugins.found.append(replace(plugin, state="blocked", reason=reason))
        else:
            plugins.found.append(_load(manager, plugin, load))
    return plugins


def only(modules: Mapping[str, object]) -> Plugins:
    """Just these modules, by plugin name, and nothing that is installed: for tests."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    plugins = Plugins(manager)
    for name, module in modules.items():
        where = str(vars(module).get("__name__", name))
        plugin = Plugin(name=name, distribution=FILES, version="", module=where)

        def load(module: object = module) -> object:
            return module

        plugins.found.append(_load(manager, plugin, load))
    return plugins


def missing(requirements: Sequence[str]) -> list[str]:
    """What of ``requirements`` is not installed, in words. Metadata only: nothing is imported."""
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


def describe(error: BaseException) -> str:
    """Type, message and place of a plugin's exception, in one line."""
    frames = inspect.getinnerframes(error.__traceback__) if error.__traceback__ else []
    where = f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}{where}" if text else f"{type(error).__name__}{where}"


@contextmanager
def blame(plugin: Plugin) -> Iterator[None]:
    """Name the plugin when its code raises something unforeseen.

    What tunesmith itself defines (a data error, a stopped run) passes unchanged.

    Raises:
        PluginError: with the plugin's name and version and the line that raised.
    """
    try:
        yield
    except TunesmithError:
        raise
    except (Exception, SystemExit) as error:
        raise PluginError(
            f'plugin "{plugin.full_name}" {plugin.version} failed: {describe(error)}',
            hint="run again with --debug for the traceback",
        ) from error


Loader = Callable[[], object]


def _installed() -> list[tuple[Plugin, Loader]]:
    found: dict[tuple[str, str], tuple[Plugin, Loader]] = {}
    for entry in metadata.entry_points(group=GROUP):
        distribution = entry.dist.name if entry.dist else "unknown"
        plugin = Plugin(
            name=entry.name,
            distribution=distribution,
            version=entry.dist.version if entry.dist else "",
            module=entry.value,
        )
        # An editable install beside a wheel lists the same entry twice; the first one is imported.
        found.setdefault((distribution, entry.name), (plugin, entry.load))
    return sorted(
        found.values(), key=lambda pair: (not pair[0].builtin, pair[0].distribution, pair[0].name)
    )


def _from_files(files: Sequence[str]) -> Iterator[tuple[Plugin, Loader]]:
    for file in files:
        path = Path(file)

        def load(path: Path = path) -> object:
            spec = importlib.util.spec_from_file_location(f"tunesmith_file_{path.stem}", path)
            if spec is None or spec.loader is None or not path.is_file():
                raise FileNotFoundError(f"no Python file at {path}")
            module = importlib.util.module_from_spec(spec)
            # Annotations of options and dataclasses are looked up in the module of this name.
            sys.modules[spec.name] = module
            try:
                spec.loader.exec_module(module)
            except BaseException:
                del sys.modules[spec.name]
                raise
            return module

        yield Plugin(name=path.stem, distribution=FILES, version="", module=str(path)), load


def _load(manager: pluggy.PluginManager, plugin: Plugin, load: Loader) -> Plugin:
    started = time.perf_counter()
    try:
        module = load()
        manager.register(module, plugin.full_name)
        hooks = _check(manager, module)
    except (Exception, SystemExit) as error:
        if manager.has_plugin(plugin.full_name):
            manager.unregister(name=plugin.full_name)
        return replace(plugin, state="broken", reason=describe(error))
    return replace(plugin, hooks=hooks, seconds=time.perf_counter() - started)


def _check(manager: pluggy.PluginManager, module: object) -> tuple[str, ...]:
    """Names of the hooks implemented; raises where one is misspelled or of an unfit kind."""
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
