"""Commands ``check``, ``run``, ``resume`` and ``report``: a run from its file to its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the commands, in the order in which they are used."""
    return [
        CommandOffer(
            name="check",
            summary="Validate a run file and its data without training.",
            load=_load_check,
        ),
        CommandOffer(
            name="run", summary="Train a model and evaluate it before and after.", load=_load_run
        ),
        CommandOffer(
            name="resume",
            summary="Continue a run that was stopped, killed or failed.",
            load=_load_resume,
        ),
        CommandOffer(name="report", summary="Show the results of a run.", load=_load_report),
    ]


def _load_check() -> click.Command:
    from tunesmith_plugins.commands.runs.check import command

    return command


def _load_run() -> click.Command:
    from tunesmith_plugins.commands.runs.run import command

    return command


def _load_resume() -> click.Command:
    from tunesmith_plugins.commands.runs.resume import command

    return command


def _load_report() -> click.Command:
    from tunesmith_plugins.commands.runs.report import command

    return command
