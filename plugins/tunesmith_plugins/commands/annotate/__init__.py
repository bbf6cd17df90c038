"""Command ``data annotate``: choose the better of two answers, to make preference data."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith data annotate``."""
    summary = "Choose the better of two answers, to make preference data."
    return [CommandOffer(name="data annotate", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.annotate.command import command

    return command
