"""Define the command ``tunesmith``, the group of all commands that plugins offer."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Sequence
from typing import Any

import click

from tunesmith import __version__
from tunesmith.errors import UsageError
from tunesmith_cli.common import CliState, common_options
from tunesmith_cli.exit_codes import exit_code_of
from tunesmith_cli.groups import OfferGroup


class TopGroup(OfferGroup):
    """The top-level command group, which converts errors to documented exit codes."""

    prefix = ""

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> None:
        """Run the command line and exit with 0, or with the documented exit code of its error."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        state = CliState()

        def work() -> object:
            _require_current_folder()
            return super(TopGroup, self).main(
                args,
                prog_name or "tunesmith",
                complete_var,
                standalone_mode=False,
                obj=state,
                **extra,
            )

        sys.exit(exit_code_of(work, state))


def _require_current_folder() -> None:
    """Raise an error if the current folder was deleted, because relative paths need it."""
    try:
        os.getcwd()
    except FileNotFoundError:
        raise UsageError(
            "the current folder was deleted",
            hint="change to another folder, for example with `cd ~`",
        ) from None


def _show_completion(ctx: click.Context, option: click.Parameter, shell: str | None) -> None:
    if shell is not None:
        from tunesmith_cli.completion import print_completion

        print_completion(ctx, shell)


@click.group(cls=TopGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunesmith %(version)s")
@click.option(
    "--show-completion",
    type=click.Choice(["bash", "zsh", "fish"]),
    metavar="SHELL",
    callback=_show_completion,
    expose_value=False,
    is_eager=True,
    help="Print the completion script for bash, zsh or fish.",
)
@common_options
def app() -> None:
    """Fine-tune a language model on your data, and measure whether it was worth it.

    Typical order: init, check, plan, run, report. Every command has --help.
    """
