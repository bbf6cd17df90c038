"""Commands ``init`` and ``example``: write a run file to edit, or copy an example project."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith init`` and ``tunesmith example``."""
    init, example = (
        "Create a run file (run.toml) to edit.",
        "Copy an example project with its data.",
    )
    return [
        CommandOffer(name="init", summary=init, load=_load_init),
        CommandOffer(name="example", summary=example, load=_load_example),
    ]


def _load_init() -> click.Command:
    from tunesmith_plugins.commands.starter.init_command import command

    return command


def _load_example() -> click.Command:
    from tunesmith_plugins.commands.starter.example_command import command

    return command
