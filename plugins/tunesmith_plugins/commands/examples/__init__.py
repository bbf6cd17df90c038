"""Hands out example projects: a run file with data that may be used for anything."""

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
        CommandOffer(name="example", summary="Copy an example project, data included.", load=_load)
    ]


def _load() -> click.Command:
    from tunesmith_plugins.commands.examples.command import command

    return command
