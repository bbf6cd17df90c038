"""Command ``schema``: print the JSON Schema of run files, for editors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith schema``."""
    summary = "Print the JSON Schema of run files, for editors."
    return [CommandOffer(name="schema", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.schema.command import command

    return command
