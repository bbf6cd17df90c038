"""Command ``compare``: compare runs row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith compare``."""
    summary = "Compare runs on the same test rows: differences with intervals."
    return [CommandOffer(name="compare", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.compare.command import command

    return command
