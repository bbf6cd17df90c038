"""The command line, which runs the commands of plugins: common options, output, exit codes.

It is built on the core, which runs without it. A command is imported only when it is used.
"""

from __future__ import annotations

import sys
import traceback
from typing import NoReturn


def main() -> None:
    """Run the ``tunesmith`` command; this is its entry point."""
    from tunesmith_cli.streams import guard_streams

    guard_streams()
    try:
        from tunesmith_cli.app import app
    except (Exception, SystemExit) as error:  # a library that every command needs is broken
        _exit_without_commands(error)
    app.main()


def _exit_without_commands(error: BaseException) -> NoReturn:
    """Print the file that cannot be imported, using only the standard library, and exit."""
    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files = [name for name in frames if not name.startswith("<frozen")]
    file = error.filename if isinstance(error, SyntaxError) else files[-1]
    what = f"{file}: import failed: {type(error).__name__}: {' '.join(str(error).split())}"
    print(
        f"error: {ascii(what)[1:-1]}\n\nhint: reinstall that package, then tunesmith",
        file=sys.stderr,
    )
    sys.exit(4)
