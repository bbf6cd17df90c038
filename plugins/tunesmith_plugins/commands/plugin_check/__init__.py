"""Command ``plugins check``: test a plugin with the conformance kit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith plugins check``."""
    summary = "Test a plugin with the conformance kit."
    return [CommandOffer(name="plugins check", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.plugin_check.command import command

    return command
