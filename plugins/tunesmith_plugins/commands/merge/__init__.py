"""Command ``merge``: merge an adapter into its base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith merge``."""
    summary = "Merge a run's adapter into its base model."
    needs = ("torch>=2.11", "transformers>=5.17")
    return [CommandOffer(name="merge", summary=summary, load=_load, needs=needs)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.merge.command import command

    return command
