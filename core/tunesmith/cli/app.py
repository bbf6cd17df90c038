"""The ``tunesmith`` command: a group that imports a command only when it is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from tunesmith._version import __version__
from tunesmith.cli.common import CliState, common_options
from tunesmith.cli.exit_codes import exit_code_of
from tunesmith.errors import UsageError
from tunesmith.text import one_line, suggest_name

COMMANDS = {
    "init": "Create a run file (run.toml) to edit.",
    "check": "Validate a run file and its data without training.",
    "plan": "Estimate memory, time and cost, and list the GPUs the run fits on.",
    "run": "Train a model and evaluate it before and after.",
    "resume": "Continue a run that was stopped, killed or failed.",
    "report": "Show the results of a run.",
    "chat": "Chat with the trained model, or compare it with the base model.",
    "verify": "Check that the checkpoints and the model of a run are intact.",
    "plugins": "List plugins and their options; check or create a plugin.",
    "schema": "Print the JSON Schema of run files, for editors.",
    "doctor": "Check the installation: versions, GPUs, memory, disk, plugins.",
}
"""Help line by command of the core. ``tunesmith.cli.NAME`` is its module, with ``command``."""


class LazyGroup(click.Group):
    """A group that knows the names and help lines of its commands without importing them.

    The commands of plugins are listed after those of the core.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *self._plugin_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = import_module(f"tunesmith.cli.{name}").command
            return command
        offer = self._plugin_commands(ctx).get(name)
        return None if offer is None else offer.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command.

        Raises:
            UsageError: there is no such command; the hint has the most similar one.
        """
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            guess = suggest_name(name, self.list_commands(ctx))
            hint = f"did you mean {guess}?" if guess else "`tunesmith --help` lists the commands"
            raise UsageError(f'no such command "{name}"', hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the help lines without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        plugin_commands = self._plugin_commands(ctx)
        if plugin_commands:
            rows = [(name, one_line(offer.summary)) for name, offer in plugin_commands.items()]
            with formatter.section("Commands from plugins"):
                formatter.write_dl(rows)

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
        state = CliState()

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

    def _plugin_commands(self, ctx: click.Context) -> dict[str, Any]:
        """Return the commands of plugins, except those with the name of a core command."""
        from tunesmith.offers import CommandOffer

        offers = ctx.ensure_object(CliState).catalog().offers(CommandOffer)
        return {o.offer.name: o.offer for o in offers if o.offer.name not in COMMANDS}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunesmith %(version)s")
@common_options
def app() -> None:
    """Fine-tune a language model on your data, and measure if it was worth it.

    Typical order: init, check, plan, run, report. Every command has --help.
    """
