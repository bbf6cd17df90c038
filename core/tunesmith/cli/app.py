"""The ``tunesmith`` command: a group that imports a command only when it is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

import click

from tunesmith._version import __version__
from tunesmith.cli.common import CliState, common_options
from tunesmith.cli.exit_codes import exit_code_of
from tunesmith.cli.groups import OfferGroup

COMMANDS = {
    "check": "Validate a run file and its data without training.",
    "run": "Train a model and evaluate it before and after.",
    "resume": "Continue a run that was stopped, killed or failed.",
    "report": "Show the results of a run.",
    "plugins": "List plugins and their options.",
}
"""Help line by command of the core. ``tunesmith.cli.NAME`` is its module, with ``command``."""

CORE_COMMANDS = frozenset({*COMMANDS, "plugins list", "plugins show"})
"""Names that plugins cannot use, those of two words included."""


class LazyGroup(OfferGroup):
    """A group that knows the names and help lines of its commands without importing them.

    The commands of plugins are listed after those of the core.
    """

    prefix = ""

    def own_lines(self) -> Mapping[str, str]:
        return COMMANDS

    def own_command(self, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = import_module(f"tunesmith.cli.{name}").command
        return command

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> None:
        """Run the command line and exit with the documented exit code of its error, or 0."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        state = CliState(core_commands=CORE_COMMANDS)

        def work() -> object:
            return super(LazyGroup, self).main(
                args,
                prog_name or "tunesmith",
                complete_var,
                standalone_mode=False,
                obj=state,
                **extra,
            )

        sys.exit(exit_code_of(work, state))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunesmith %(version)s")
@common_options
def app() -> None:
    """Fine-tune a language model on your data, and measure if it was worth it.

    Typical order: init, check, plan, run, report. Every command has --help.
    """
