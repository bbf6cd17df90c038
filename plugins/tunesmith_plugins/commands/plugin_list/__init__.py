"""Commands ``plugins list``, ``plugins show`` and ``explain``: list plugins and their options."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.hookspecs import hookimpl
from tunesmith.offers import CommandOffer

if TYPE_CHECKING:
    import click


@hookimpl
def tunesmith_commands() -> Sequence[CommandOffer]:
    """Offer ``tunesmith plugins list``, ``tunesmith plugins show`` and ``tunesmith explain``."""
    return [
        CommandOffer(
            name="plugins list", summary="List all components and broken plugins.", load=_load_list
        ),
        CommandOffer(
            name="plugins show", summary="Show the options of a component.", load=_load_show
        ),
        CommandOffer(
            name="explain",
            summary="Explain a key of the run file, an exit code or an error.",
            load=_load_explain,
        ),
    ]


def _load_list() -> click.Command:
    from tunesmith_plugins.commands.plugin_list.list_command import command

    return command


def _load_show() -> click.Command:
    from tunesmith_plugins.commands.plugin_list.show_command import command

    return command


def _load_explain() -> click.Command:
    from tunesmith_plugins.commands.plugin_list.explain_command import command

    return command
