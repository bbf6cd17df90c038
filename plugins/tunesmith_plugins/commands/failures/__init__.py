"""Command ``failures``: find where the tuned model of a run is weak, and the rows to learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith failures``."""
    summary = "Find where the tuned model of a run is weak, and the rows to learn from."
    return [CommandOffer(name="failures", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.failures.command import command

    return command
