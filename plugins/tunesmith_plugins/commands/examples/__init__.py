"""Command ``example``: copy an example project, a run file with data in the public domain."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith example``."""
    return [
        CommandOffer(name="example", summary="Copy an example project with its data.", load=_load)
    ]


def _load() -> click.Command:
    from tunesmith_plugins.commands.examples.command import command

    return command
