"""Commands ``ray ...`` and the table ``[ray]``: runs on the machines of a Ray cluster."""

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
    """Offer the commands, in the order in which they are used."""
    return [
        CommandOffer(
            name="ray submit", summary="Execute a run on a Ray cluster.", load=_load_submit
        ),
        CommandOffer(
            name="ray status", summary="Show how a run on a Ray cluster goes.", load=_load_status
        ),
        CommandOffer(
            name="ray logs", summary="Print what a process of a run has printed.", load=_load_logs
        ),
        CommandOffer(name="ray cancel", summary="Stop a run on a Ray cluster.", load=_load_cancel),
    ]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[ray]``."""
    from tunesmith_ray.options import RAY

    return [RAY]


def _load_submit() -> click.Command:
    from tunesmith_ray.submit import command

    return command


def _load_status() -> click.Command:
    from tunesmith_ray.launcher import LAUNCHER

    return LAUNCHER.status_command()


def _load_logs() -> click.Command:
    from tunesmith_ray.launcher import LAUNCHER

    return LAUNCHER.logs_command()


def _load_cancel() -> click.Command:
    from tunesmith_ray.launcher import LAUNCHER

    return LAUNCHER.cancel_command()
