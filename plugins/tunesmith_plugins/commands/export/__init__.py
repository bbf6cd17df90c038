"""Command ``export``: write a trained model for the engine that will serve it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith export``."""
    summary = "Merge and export a run's model to safetensors or GGUF, checked there."
    return [CommandOffer(name="export", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.export.command import command

    return command
