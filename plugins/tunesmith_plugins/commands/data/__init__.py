"""Commands ``tunesmith data ...``: look at data, check and split it, and repair its files."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click

SUMMARIES = {
    "show": "Print rows as the model sees them, with the text that is trained.",
    "stats": "Count rows, lengths, duplicates and labels.",
    "check": "Look for faults in rows.",
    "fix": "Repair a file of rows without changing their meaning.",
    "split": "Write training, validation and test rows to files of their own, without leaks.",
    "select": "Write a few rows that stand for many.",
    "canaries": "Inject random secrets into training rows, to measure what a model memorizes.",
    "coverage": "Estimate the share of production traffic that the training data does not cover.",
}
"""Help lines by the name of the command, which is that of its module too."""
COMPARES_ROWS = {"stats", "check", "split", "select", "coverage"}
"""The commands that compare rows with each other, in arrays."""


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer the commands of the group ``tunesmith data``."""
    return [
        CommandOffer(
            name=f"data {name}",
            summary=summary,
            load=partial(_load, name),
            needs=("numpy>=1.26", "scikit-learn>=1.5") if name in COMPARES_ROWS else (),
        )
        for name, summary in SUMMARIES.items()
    ]


def _load(name: str) -> click.Command:
    command: click.Command = import_module(f"{__name__}.{name}").command
    return command
