"""Command ``advise``: is this task worth tuning? Asked before the whole training is paid for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.offers import TableOffer


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[advise]``."""
    from tunesmith_plugins.commands.advise.offer import ADVISE

    return [ADVISE]


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith advise``."""
    summary = "Advise whether to tune: baselines, short trainings, learning curve and costs."
    return [CommandOffer(name="advise", summary=summary, load=_load, needs=("numpy>=1.26",))]


def _load() -> click.Command:
    from tunesmith_plugins.commands.advise.command import command

    return command
