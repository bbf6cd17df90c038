"""Command ``unlock``: free a run that a dead machine has left locked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith unlock``."""
    summary = "Free a run that a dead machine has left locked."
    return [CommandOffer(name="unlock", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.unlock.command import command

    return command
