"""Command ``completion``: print the script by which a shell completes commands and options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith completion``."""
    summary = "Print the completion script for a shell."
    return [CommandOffer(name="completion", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.completion.command import command

    return command
