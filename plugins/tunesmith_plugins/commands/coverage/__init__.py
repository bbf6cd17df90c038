"""Command ``data coverage``: compare the training rows with what production asks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith data coverage``."""
    summary = "Estimate the share of production traffic that the training data does not cover."
    return [CommandOffer(name="data coverage", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.coverage.command import command

    return command
