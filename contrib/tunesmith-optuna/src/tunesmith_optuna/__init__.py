"""Command ``tune`` and the table ``[tune]``: search for the options of a run with Optuna."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

    from tunesmith.offers import DataLoaderOffer, TableOffer


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith tune``."""
    summary = "Search for the options of a run, on its validation rows."
    return [CommandOffer(name="tune", summary=summary, load=_load)]


@hookimpl
def tunesmith_tables() -> Sequence[TableOffer[Any]]:
    """Offer the table ``[tune]``."""
    from tunesmith_optuna.options import TUNE

    return [TUNE]


@hookimpl
def tunesmith_data_loaders() -> Sequence[DataLoaderOffer[Any]]:
    """Offer the data of a trial."""
    from tunesmith_optuna.validation_part import VALIDATION_PART

    return [VALIDATION_PART]


def _load() -> click.Command:
    from tunesmith_optuna.command import command

    return command
