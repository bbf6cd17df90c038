"""Commands ``slurm ...`` and the table ``[slurm]``: runs as jobs of a Slurm cluster."""

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
            name="slurm submit", summary="Submit a run to Slurm as a job.", load=_load_submit
        ),
        CommandOffer(
            name="slurm status",
            summary="Show the job and the progress of a run.",
            load=_load_status,
        ),
        CommandOffer(
            name="slurm logs", summary="Print what the job of a run has printed.", load=_load_logs
        ),
        CommandOffer(name="slurm cancel", summary="Cancel the job of a run.", load=_load_cancel),
    ]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[slurm]``."""
    from tunesmith_slurm.options import SLURM

    return [SLURM]


def _load_submit() -> click.Command:
    from tunesmith_slurm.submit import command

    return command


def _load_status() -> click.Command:
    from tunesmith_slurm.launcher import LAUNCHER

    return LAUNCHER.status_command()


def _load_logs() -> click.Command:
    from tunesmith_slurm.launcher import LAUNCHER

    return LAUNCHER.logs_command()


def _load_cancel() -> click.Command:
    from tunesmith_slurm.launcher import LAUNCHER

    return LAUNCHER.cancel_command()
