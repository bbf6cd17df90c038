"""Command ``serve``: an OpenAI-compatible server for the models of a run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith serve``."""
    summary = "Serve a run's models as an OpenAI-compatible API, with a chat page."
    needs = ("starlette>=0.40", "uvicorn>=0.30", "prometheus-client>=0.20")
    return [CommandOffer(name="serve", summary=summary, load=_load, needs=needs)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.serve.command import command

    return command
