"""Command ``seeds``: train a run again with other seeds, and pool the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith seeds``."""
    summary = "Train a run again with other seeds, and pool their differences."
    return [CommandOffer(name="seeds", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.seeds.command import command

    return command
