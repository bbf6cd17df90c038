"""How a command ends when it fails: one sentence, a hint, and the documented exit code."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import click

from tunesmith.cli.common import State
from tunesmith.errors import ConfigError, RunStopped, TunesmithError
from tunesmith.plugins import describe
from tunesmith.terminal import colourful
from tunesmith.text import redact, safe_text

INTERRUPTED = 130


def exit_code_of(work: Callable[[], object], state: State) -> int:
    """Do the work; explain on stderr what went wrong, and say which exit code that is."""
    try:
        result = work()
    except click.ClickException as error:
        _say_click(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED
    except TunesmithError as error:
        _trace(error, state)
        _say(error)
        return error.exit_code
    except Exception as error:  # the last resort: a message instead of a traceback
        _trace(error, state)
        _lines("error", describe(error))
        _hint("this should not happen; run again with --debug for the traceback")
        return 1
    return result if isinstance(result, int) else 0


def _say(error: TunesmithError) -> None:
    match error:
        case ConfigError() if len(error.problems) > 1:
            _lines("error", f"{len(error.problems)} problems")
            for problem in error.problems:
                click.echo(_clean(f"  {problem}"), err=True)
            _hint(error.hint)
        case RunStopped():
            click.echo(_clean("\n".join(filter(None, [error.message, error.hint]))), err=True)
        case _:
            _lines("error", error.message)
            _hint(error.hint)


def _say_click(error: click.ClickException) -> None:
    message = error.format_message().rstrip(".")
    _lines("error", message[:1].lower() + message[1:])
    if isinstance(error, click.UsageError) and error.ctx is not None:
        _hint(f"{error.ctx.command_path} --help")


def _lines(label: str, message: str) -> None:
    shown = click.style(f"{label}:", fg="red", bold=True) if colourful(sys.stderr) else f"{label}:"
    click.echo(f"{shown} {_clean(message)}", err=True, color=colourful(sys.stderr))


def _hint(hint: str | None) -> None:
    if hint:
        click.echo(f"\nhint: {_clean(hint)}", err=True)


def _trace(error: BaseException, state: State) -> None:
    if state.debug:
        click.echo(_clean("".join(traceback.format_exception(error))), err=True)


def _clean(text: str) -> str:
    return redact(safe_text(text))
