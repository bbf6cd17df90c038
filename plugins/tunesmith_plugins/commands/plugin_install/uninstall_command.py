"""``tunesmith plugins uninstall``: uninstall the distributions of plugins."""

from __future__ import annotations

from importlib import metadata

import click
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from tunesmith.errors import UsageError
from tunesmith.plugins import find_installed
from tunesmith.text import one_line, suggest_name
from tunesmith_cli import render
from tunesmith_cli.common import common_options
from tunesmith_plugins.commands.plugin_install.pip import run_pip


@click.command("uninstall")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@common_options
def command(names: tuple[str, ...]) -> None:
    """Uninstall plugins, named by the plugin or by its distribution.

    All plugins of the distribution go; what it required stays.
    """
    distributions = sorted({find_distribution(name) for name in names})
    for distribution in distributions:
        dependents = [d for d in find_dependents(distribution) if d not in distributions]
        if dependents:
            raise UsageError(
                f"{distribution}: {', '.join(map(one_line, dependents))} needs it",
                hint="uninstall both",
            )
    run_pip(["uninstall", "--yes", *distributions])
    for distribution in distributions:
        render.print_text(f"uninstalled {one_line(distribution)}")


def find_distribution(name: str) -> str:
    """Return the distribution of a plugin.

    Raises:
        UsageError: there is no such plugin, or it is built in.
    """
    plugins = [plugin for plugin, _ in find_installed()]
    for plugin in plugins:
        if name in (plugin.name, plugin.full_name, plugin.distribution) and plugin.is_builtin:
            raise UsageError(f"{name}: is a part of tunesmith", hint=f"--no-plugin {name}")
    found = {p.distribution for p in plugins if name in (p.name, p.full_name, p.distribution)}
    if len(found) > 1:
        raise UsageError(f"{name}: is in {' and '.join(sorted(found))}", hint="name one of them")
    if not found:
        others = [p for p in plugins if not p.is_builtin]
        guess = suggest_name(name, {n for p in others for n in (p.name, p.distribution)})
        hint = f"did you mean {guess}?" if guess else "`tunesmith plugins list` lists them"
        raise UsageError(f"{name}: no such plugin is installed", hint=hint)
    return found.pop()


def find_dependents(name: str) -> list[str]:
    """Return the installed distributions that require another one."""
    wanted, found = canonicalize_name(name), set()
    for distribution in metadata.distributions():
        for text in distribution.requires or ():
            try:
                requirement = Requirement(text)
            except InvalidRequirement:
                continue
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
            if needed and canonicalize_name(requirement.name) == wanted:
                found.add(distribution.name)
    return sorted(found)
