"""Command ``next``: write the next iteration of a run, with more rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.offers import TableOffer


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith next``."""
    summary = "Write the run file of the next iteration: the rows of a run, and more."
    return [CommandOffer(name="next", summary=summary, load=_load)]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[lineage]``."""
    from tunesmith_plugins.commands.next_run.lineage import LINEAGE

    return [LINEAGE]


def _load() -> click.Command:
    from tunesmith_plugins.commands.next_run.command import command

    return command
