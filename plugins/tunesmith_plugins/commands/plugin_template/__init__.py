"""Command ``plugins new``: create a plugin project from a template."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith plugins new``."""
    return [CommandOffer(name="plugins new", summary="Create a plugin project.", load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.plugin_template.command import command

    return command
