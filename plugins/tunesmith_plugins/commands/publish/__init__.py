"""Commands ``push`` and ``pull``: trained models to and from a hub."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith push`` and ``tunesmith pull``."""
    return [
        CommandOffer(
            name="push", summary="Upload a run's model to the Hugging Face Hub.", load=_load_push
        ),
        CommandOffer(
            name="pull", summary="Download a model from the Hugging Face Hub.", load=_load_pull
        ),
    ]


def _load_push() -> click.Command:
    from tunesmith_plugins.commands.publish.push_command import command

    return command


def _load_pull() -> click.Command:
    from tunesmith_plugins.commands.publish.pull_command import command

    return command
