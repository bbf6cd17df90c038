"""Command ``submit`` and the table ``[cloud]``: runs as jobs of Kubernetes, SkyPilot and dstack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.offers import TableOffer


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the command."""
    return [
        CommandOffer(
            name="submit",
            summary="Write the job file of a run for Kubernetes, SkyPilot or dstack.",
            load=_load_submit,
        )
    ]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[cloud]``."""
    from tunesmith_cloud.options import CLOUD

    return [CLOUD]


def _load_submit() -> click.Command:
    from tunesmith_cloud.command import command

    return command
