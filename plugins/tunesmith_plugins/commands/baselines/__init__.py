"""Command ``baselines``: all baselines of a run file, without training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith baselines``."""
    summary = "Measure prompts and classifiers, before anything is trained."
    return [CommandOffer(name="baselines", summary=summary, load=_load)]


def _load() -> click.Command:
    from tunesmith_plugins.commands.baselines.command import command

    return command
