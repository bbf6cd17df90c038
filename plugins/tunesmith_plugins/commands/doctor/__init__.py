"""Command ``doctor``: check if this machine and installation can train."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith doctor``."""
    summary = "Check the installation: versions, GPUs, memory, disk, plugins."
    return [CommandOffer(name="doctor", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.doctor.command import command

    return command
