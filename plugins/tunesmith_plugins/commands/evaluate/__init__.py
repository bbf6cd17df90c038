"""Command ``evaluate``: measure a trained model, or any other, on a file of rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith evaluate``."""
    summary = "Measure a trained model, or any other, on a file of rows."
    return [CommandOffer(name="evaluate", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.evaluate.command import command

    return command
