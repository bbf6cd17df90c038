"""Print the error of a command with a hint, and return the documented exit code."""

from __future__ import annotations

import errno
import sys
from collections.abc import Callable

import click

from tunesmith.errors import ConfigError, EnvironmentProblem, RunStopped, TunesmithError
from tunesmith.terminal import supports_color
from tunesmith.text import redact, safe_text
from tunesmith_cli.common import CliState
from tunesmith_cli.streams import find_stream_error

INTERRUPTED = 130
PIP_COMMANDS = {
    "plugins uninstall": "pip uninstall NAME",
    "plugins outdated": "pip list --outdated",
    "plugins install --dry-run": "pip install --dry-run REQUIREMENT",
}
"""Replacements for commands and options that users may expect from pip."""


def exit_code_of(work: Callable[[], object], state: CliState) -> int:
    """Call ``work``, print its error (if any) on stderr, and return the exit code.

    If stdout cannot be written (a full disk, for example), a command fails only if its output is
    its only result. A reader that closes the pipe early (``| head``) does not make it fail, because
    that reader has what it needs.
    """
    code = _call(work, state)
    lost = find_stream_error(sys.stdout)
    if lost is None or lost.errno == errno.EPIPE or code:
        return code
    text = f"stdout could not be written, so the output is incomplete: {lost.strerror}"
    if state.run_folder is None:
        _print_label("error", text)
        return EnvironmentProblem.exit_code
    import shlex

    _print_label("warning", text)
    _print_hint(f"`tunesmith report {shlex.quote(str(state.run_folder))}` prints the results")
    return code


def _call(work: Callable[[], object], state: CliState) -> int:
    try:
        result = work()
    except click.ClickException as error:
        _print_click_error(error)
        return error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("\ninterrupted", err=True)
        return INTERRUPTED
    except TunesmithError as error:
        _print_traceback(error, state)
        _print_error(error)
        return error.exit_code
    except SystemExit as error:
        return _exit_code_of_exit(error)
    except Exception as error:
        _print_traceback(error, state)
        return _print_unexpected(error)
    return result if isinstance(result, int) else 0


def _exit_code_of_exit(error: SystemExit) -> int:
    """Report a ``sys.exit`` in an imported module as an error; raise any other ``SystemExit``."""
    if problem := explain_import_error(error):
        _print_error(problem)
        return problem.exit_code
    raise error


def _print_unexpected(error: Exception) -> int:
    """Print an unexpected error as a problem of the machine or of a library, otherwise as a bug."""
    from tunesmith.machine import explain_machine_error

    problem = explain_machine_error(error) or explain_import_error(error)
    if problem is not None:
        _print_error(problem)
        return problem.exit_code
    from tunesmith.fence import describe_error

    _print_label("error", describe_error(error))
    _print_hint("this is a bug in tunesmith or a plugin; --debug prints the traceback")
    return 1


def _print_error(error: TunesmithError) -> None:
    match error:
        case ConfigError() if len(error.problems) > 1:
            _print_label("error", f"{len(error.problems)} problems were found")
            for problem in error.problems:
                click.echo(_clean(f"  {problem}"), err=True)
            _print_hint(error.hint)
        case RunStopped():
            click.echo(_clean("\n".join(filter(None, [error.message, error.hint]))), err=True)
        case _:
            _print_label("error", error.message)
            _print_hint(error.hint)


def _print_click_error(error: click.ClickException) -> None:
    message = _explain_renamed_option(error) or error.format_message().rstrip(".")
    _print_label("error", message[:1].lower() + message[1:])
    if isinstance(error, click.UsageError) and error.ctx is not None:
        _print_hint(f"see `{error.ctx.command_path} --help`")


def _explain_renamed_option(error: click.ClickException) -> str:
    """Return a message about a renamed option or value, or "" if it was not renamed."""
    from tunesmith.renamed import explain_renaming, find_present_name

    match error:
        case click.NoSuchOption(option_name=name, ctx=click.Context() as context):
            options = {_key_of(o): o for param in context.command.params for o in param.opts}
            if new := find_present_name(_key_of(name), options):
                return f"{name} was renamed to {options[new]}"
            for old, instead in PIP_COMMANDS.items():
                if f"{context.command_path} {name}".endswith(f" {old}"):
                    return f"no such option '{name}': use `{instead}`"
        case click.BadParameter(param=click.Parameter(type=click.Choice())):
            message = error.format_message().rstrip(".")
            return f"{message}{explain_renaming(message)}"
    return ""


def _key_of(option: str) -> str:
    return option.lstrip("-").replace("-", "_")


def _print_label(label: str, message: str) -> None:
    color = "red" if label == "error" else "yellow"
    shown = (
        click.style(f"{label}:", fg=color, bold=True) if supports_color(sys.stderr) else f"{label}:"
    )
    click.echo(f"{shown} {_clean(message)}", err=True, color=supports_color(sys.stderr))


def _print_hint(hint: str | None) -> None:
    if hint:
        click.echo(f"\nhint: {_clean(hint)}", err=True)


def _print_traceback(error: BaseException, state: CliState) -> None:
    if state.debug:
        import traceback

        click.echo(_clean("".join(traceback.format_exception(error))), err=True)


def _clean(text: str) -> str:
    return redact(safe_text(text))


def explain_import_error(error: BaseException) -> EnvironmentProblem | None:
    """Return a user-facing error for an exception raised by an import, or None for any other.

    Use it for errors that cannot be attributed to a plugin. The message names the file whose
    import failed.
    """
    import traceback  # like shlex, not needed for `--help`

    frames = traceback.extract_tb(error.__traceback__)
    if not isinstance(error, (ImportError, SyntaxError)) and not any(
        frame.name == "<module>" for frame in frames
    ):
        return None
    named = error.filename if isinstance(error, SyntaxError) else None
    named = error.path if isinstance(error, ImportError) else named
    files = [
        frame.filename for frame in frames if not frame.filename.startswith("<frozen importlib")
    ]
    where = named or (files[-1] if files else "")
    if isinstance(error, ModuleNotFoundError) and error.name and "." not in error.name:
        return EnvironmentProblem(
            f"{error.name} is not installed, but {where} needs it",
            hint="`tunesmith plugins list` shows the missing requirements of each component",
        )
    from tunesmith.renamed import explain_renaming

    text = " ".join(str(error).split())
    renamed = explain_renaming(text)
    return EnvironmentProblem(
        f"{where}: import failed: {type(error).__name__}: {text}{renamed}",
        hint=None
        if renamed
        else "reinstall that package with pip install --force-reinstall NAME; "
        "`python -c 'import sys; print(sys.path)'` shows where packages come from",
    )
