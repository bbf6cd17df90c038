"""Command ``init``: write a run file to edit, or copy an example project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith init``."""
    summary = "Create a run file (run.toml) to edit, or copy an example with its data."
    return [CommandOffer(name="init", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.starter.init_command import command

    return command
