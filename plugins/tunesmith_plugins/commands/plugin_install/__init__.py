"""Commands ``plugins install``, ``uninstall``, ``outdated`` and ``search``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the commands that install plugins, uninstall them, and list new ones."""
    return [
        CommandOffer(
            name="plugins install",
            summary="Install plugins, check them, and undo it if a check fails.",
            load=_load_install,
        ),
        CommandOffer(name="plugins uninstall", summary="Uninstall plugins.", load=_load_uninstall),
        CommandOffer(
            name="plugins outdated",
            summary="List plugins of which there is a newer version.",
            load=_load_outdated,
        ),
        CommandOffer(
            name="plugins search", summary="Search the directory of plugins.", load=_load_search
        ),
    ]


def _load_install() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.install_command import command

    return command


def _load_uninstall() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.uninstall_command import command

    return command


def _load_outdated() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.outdated_command import command

    return command


def _load_search() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.search_command import command

    return command
