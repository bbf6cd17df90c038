"""Command ``chat``: chat with the trained model, and compare it with the base model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith chat``."""
    summary = "Chat with the trained model, or compare it with the base model."
    return [CommandOffer(name="chat", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.chat.command import command

    return command
