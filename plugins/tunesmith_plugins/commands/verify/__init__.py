"""Command ``verify``: check that the checkpoints and the artifact of a run are intact."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith verify``."""
    summary = "Check that the checkpoints and the model of a run are intact."
    return [CommandOffer(name="verify", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.verify.command import command

    return command
