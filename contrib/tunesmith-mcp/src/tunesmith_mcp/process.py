"""Run a command of tunesmith in a separate process, with a time limit."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import anyio

from tunesmith.config.trust import TRUST_VARIABLE

MAX_CHARACTERS = 200_000
"""Longest answer to an assistant."""


class CommandFailed(Exception):
    """The command ended with an error, took too long, or printed too much; has the message."""


async def run_command(words: Sequence[str], folder: Path, seconds: float) -> str:
    """Run a command and return what it printed on stdout.

    Raises:
        CommandFailed: see the message.
    """
    try:
        with anyio.fail_after(seconds):  # ends the process
            done = await anyio.run_process(
                command_line(words), cwd=folder, check=False, env=environment(),
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
    except TimeoutError:
        raise CommandFailed(f"{words[0]}: stopped after the time limit of {seconds:g} s") from None
    printed = done.stdout.decode(errors="replace")
    if done.returncode and not printed.startswith("{"):
        raise CommandFailed(done.stderr.decode(errors="replace")[-4_000:].strip())
    if len(printed) > MAX_CHARACTERS:
        raise CommandFailed(
            f"{words[0]}: the result has {len(printed):,} characters, more than {MAX_CHARACTERS:,}"
        )
    return printed


async def start_run(
    words: Sequence[str], cwd: Path, run: Path, seconds: float
) -> subprocess.Popen[bytes]:
    """Start a run that goes on when the server ends; return when its folder exists.

    Raises:
        CommandFailed: it ended before, or took too long.
    """
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            command_line(words), cwd=cwd, env=environment(), start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors,
        )  # fmt: skip
        try:
            with anyio.fail_after(seconds):
                while not (run / "lock").is_file():
                    if process.poll() is not None:
                        errors.seek(0)
                        raise CommandFailed(errors.read()[-4_000:].decode(errors="replace").strip())
                    await anyio.sleep(0.1)
        except BaseException as error:  # also if the client cancels the call
            process.kill()
            if isinstance(error, TimeoutError):
                raise CommandFailed(f"run: not started within {seconds:g} s") from None
            raise
        return process


def command_line(words: Sequence[str]) -> list[str]:
    """Return the words that start a command of the installed tunesmith."""
    return [sys.executable, "-P", "-m", "tunesmith", *words]


def environment() -> dict[str, str]:
    """Return the environment of a command: nobody is asked, and no folder's code is trusted."""
    return {k: v for k, v in os.environ.items() if k != TRUST_VARIABLE} | {"NO_COLOR": "1"}
