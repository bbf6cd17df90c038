"""Generate the page on the command line, with the help of every command."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click

from tunesmith import plugins
from tunesmith.catalog import Catalog
from tunesmith.offers import CommandOffer
from tunesmith.plugins import Selection
from tunesmith_cli.app import app
from tunesmith_cli.common import common_options
from tunesmith_cli.groups import resolve_command_conflicts

WIDTH = 88
CONTRIB = Path(__file__).parents[2] / "contrib"


def command_page() -> Iterator[str]:
    """Yield the lines of the page: the help of each built-in command, and the common options."""
    yield "# Commands\n"
    yield (
        "This page shows the output of `tunesmith COMMAND --help`. Results are printed on stdout, "
        "progress and messages on stderr. See [exit codes](exit-codes.md) for the codes that a "
        "command can return. [Separate distributions](#commands-of-separate-distributions) add "
        "more commands.\n"
    )
    catalog = Catalog(plugins.find_plugins(Selection(allowed=frozenset())))
    usable, _ = resolve_command_conflicts(catalog.offers(CommandOffer))
    common = {option.name for option in shared_options()}
    yield "## Options of every command\n"
    yield f"```text\n{help_of(shared_command(), 'COMMAND', set())}\n```\n"
    for name in sorted(usable):
        yield f"## `tunesmith {name}`\n"
        yield f"```text\n{help_of(usable[name].load(), name, common)}\n```\n"
    yield "## Commands of separate distributions\n"
    yield "| distribution | commands |"
    yield "|---|---|"
    for folder in sorted(path.parent for path in CONTRIB.glob("*/pyproject.toml")):
        if names := ", ".join(f"`tunesmith {name}`" for name in contrib_commands(folder)):
            yield f"| [{folder.name}](../../contrib/{folder.name}/README.md) | {names} |"
    yield ""


def contrib_commands(folder: Path) -> Iterator[str]:
    """Yield the names of a distribution's commands, which its light plugin object has."""
    for source in folder.glob("src/*/__init__.py"):
        sys.path.insert(0, str(source.parents[1]))
        plugin = getattr(import_module(source.parent.name), "PLUGIN", None)
        sys.path.pop(0)
        for offer in getattr(plugin, "tunesmith_commands", list)():
            yield offer.name


def shared_command() -> click.Command:
    """Return a command that only has the common options."""

    @click.command(context_settings=app.context_settings)
    @common_options
    def command() -> None: ...

    return command


def shared_options() -> list[click.Parameter]:
    """Return the options that all commands have."""
    return list(shared_command().params)


def help_of(command: click.Command, name: str, hidden: set[str | None]) -> str:
    """Return the help of a command without the options in ``hidden``."""
    own = [option for option in command.params if option.name not in hidden]
    shown = click.Command(
        name,
        params=own,
        help=command.help,
        context_settings=app.context_settings,
        add_help_option=not hidden,
    )
    with click.Context(
        shown,
        info_name=f"tunesmith {name}",
        terminal_width=WIDTH,
        max_content_width=WIDTH,
        help_option_names=["-h", "--help"],
    ) as context:
        return shown.get_help(context)
