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
    summary = "Export a run's model to GGUF or safetensors, checked in the engine."
    needs = ("torch>=2.11", "transformers>=5.17")
    return [CommandOffer(name="export", summary=summary, load=_load, needs=needs)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.export.command import command

    return command
