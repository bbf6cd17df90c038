"""Commands ``tunesmith data ...``: look at data, split it, and repair its files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith data show``, ``stats``, ``check``, ``fix`` and ``split``."""
    show, stats, check, fix, split = (
        "Print rows as the model sees them, with the text that is trained.",
        "Count rows, lengths, duplicates and labels.",
        "Look for faults in rows.",
        "Repair a file of rows without changing their meaning.",
        "Write training, dev and held-out rows to files of their own, without leaks.",
    )
    return [
        CommandOffer(name="data show", summary=show, load=_load_show),
        CommandOffer(name="data stats", summary=stats, load=_load_stats),
        CommandOffer(name="data check", summary=check, load=_load_check),
        CommandOffer(name="data fix", summary=fix, load=_load_fix),
        CommandOffer(name="data split", summary=split, load=_load_split),
    ]


def _load_show() -> click.Command:
    from tunesmith_plugins.commands.data.show import command

    return command


def _load_stats() -> click.Command:
    from tunesmith_plugins.commands.data.stats import command

    return command


def _load_check() -> click.Command:
    from tunesmith_plugins.commands.data.check import command

    return command


def _load_fix() -> click.Command:
    from tunesmith_plugins.commands.data.fix import command

    return command


def _load_split() -> click.Command:
    from tunesmith_plugins.commands.data.split import command

    return command
