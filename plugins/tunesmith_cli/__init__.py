"""The command line: the commands that plugins offer, their common options, printing, exit codes.

It is above the core, which runs without it. A command is imported only when it is used.
"""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn


def main() -> None:
    """Entry point of the ``tunesmith`` command."""
    from tunesmith_cli.streams import guard_streams

    guard_streams()
    try:
        from tunesmith_cli.app import app
    except (Exception, SystemExit) as error:  # a library that every command needs is damaged
        _exit_without_commands(error)
    app.main()


def _exit_without_commands(error: BaseException) -> NoReturn:
    """Print the file that cannot be imported, with the standard library alone, and exit."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files = [name for name in frames if not name.startswith("<frozen")]
    file = error.filename if isinstance(error, SyntaxError) else files[-1]
    what = f"{file}: cannot be imported, {type(error).__name__}: {' '.join(str(error).split())}"
    print(
        f"error: {ascii(what)[1:-1]}\n\nhint: install that package and tunesmith again",
        file=sys.stderr,
    )
    sys.exit(4)
