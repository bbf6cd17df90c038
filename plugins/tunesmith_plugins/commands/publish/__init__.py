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
    push = "Upload a run's model to the Hugging Face Hub."
    pull = "Download a model from the Hugging Face Hub."
    needs = ("transformers>=5.17",)
    return [
        CommandOffer(name="push", summary=push, load=_load_push, needs=needs),
        CommandOffer(name="pull", summary=pull, load=_load_pull, needs=needs),
    ]


def _load_push() -> click.Command:
    from tunesmith_plugins.commands.publish.push_command import command

    return command


def _load_pull() -> click.Command:
    from tunesmith_plugins.commands.publish.pull_command import command

    return command
