"""The ``tunesmith`` command: a group that imports a command only when it is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import click

from tunesmith._version import __version__
from tunesmith.cli.common import State, common_options
from tunesmith.cli.exit_codes import exit_code_of
from tunesmith.errors import UsageError
from tunesmith.text import did_you_mean, one_line

COMMANDS = {
    "init": "Write a run file to start from.",
    "check": "Say what is wrong or odd with a run file and its data, before anything is trained.",
    "plan": "Say what a run would take: memory, time, cost, and where it fits.",
    "run": "Train, measure before and after, and judge whether it was worth it.",
    "resume": "Continue a run that was stopped, killed or failed.",
    "report": "Show what came of a run.",
    "chat": "Talk to a run's model, or compare it with the base model.",
    "verify": "Check a run's checkpoints and artifact against their manifests.",
    "plugins": "List the installed plugins and show their options.",
    "schema": "Print the JSON Schema of run files, for editors.",
    "doctor": "Check this machine: versions, devices, memory, plugins.",
}
"""Every command of the core with its help line; the module and its ``command`` have its name."""


class LazyGroup(click.Group):
    """Knows its commands by name and help line; plugins' commands come after the core's own."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*COMMANDS, *self._offered(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            command: click.Command = import_module(f"tunesmith.cli.{name}").command
            return command
        offered = self._offered(ctx).get(name)
        return None if offered is None else offered.load()

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Find the command; an unknown one is answered with the one that was probably meant."""
        name = args[0]
        if not name.startswith("-") and self.get_command(ctx, name) is None:
            guess = did_you_mean(name, self.list_commands(ctx))
            hint = f"did you mean {guess}?" if guess else "tunesmith --help lists the commands"
            raise UsageError(f'no command is named "{name}"', hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Help lines without importing a command."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        offered = self._offered(ctx)
        if offered:
            rows = [(name, one_line(offer.summary)) for name, offer in offered.items()]
            with formatter.section("Commands of plugins"):
                formatter.write_dl(rows)

    def main(  # type: ignore[override]
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        **extra: Any,
    ) -> None:
        """Run the command line and exit with the code that its errors document."""
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):
                stream.reconfigure(errors="backslashreplace")
        state = State()

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

    def _offered(self, ctx: click.Context) -> dict[str, Any]:
        """Commands of plugins, without those that would hide one of the core's."""
        from tunesmith.offers import CommandOffer

        offers = ctx.ensure_object(State).catalog().offers(CommandOffer)
        return {o.offer.name: o.offer for o in offers if o.offer.name not in COMMANDS}


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="tunesmith %(version)s")
@common_options
def app() -> None:
    """Adapt a pre-trained language model to your data, and prove whether it was worth it."""
