"""Table ``[remote]`` and commands ``remote ...``: a run's mirror in a bucket."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.offers import ReporterOffer, TableOffer


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the commands."""
    return [
        CommandOffer(
            name="remote push", summary="Copy what is new in a run to a bucket.", load=_load_push
        ),
        CommandOffer(
            name="remote pull",
            summary="Fetch a run from a bucket, to continue it.",
            load=_load_pull,
        ),
    ]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[remote]``."""
    from tunesmith_remote.options import REMOTE

    return [REMOTE]


@hookimpl
def tunesmith_reporters() -> Sequence[ReporterOffer[Any]]:
    """Offer the reporter that pushes a run while it trains, if ``[remote] url`` is set."""
    from tunesmith_remote.reporter import REMOTE_REPORTER

    return [REMOTE_REPORTER]


def _load_push() -> click.Command:
    from tunesmith_remote.commands.push import command

    return command


def _load_pull() -> click.Command:
    from tunesmith_remote.commands.pull import command

    return command
