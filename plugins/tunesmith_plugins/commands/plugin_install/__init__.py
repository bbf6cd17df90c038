"""Commands ``plugins install`` and ``search``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the commands."""
    return [
        CommandOffer(
            name="plugins install",
            summary="Install plugins, check them, and uninstall those that fail.",
            load=_load_install,
        ),
        CommandOffer(
            name="plugins search", summary="Search the directory of plugins.", load=_load_search
        ),
    ]


def _load_install() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.install_command import command

    return command


def _load_search() -> click.Command:
    from tunesmith_plugins.commands.plugin_install.search_command import command

    return command
