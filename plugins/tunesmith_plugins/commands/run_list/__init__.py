"""Command ``runs``: list, find and delete runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith runs``."""
    return [CommandOffer(name="runs", summary="List, find and delete runs.", load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.run_list.command import command

    return command
