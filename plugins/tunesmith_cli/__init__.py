"""Command line of tunesmith: find the commands of plugins, run one, and return its exit code.

The command line uses the core, and the core never imports it. To start quickly, it imports a
command only when the user runs it.
"""

from __future__ import annotations

import sys
from typing import NoReturn


def main() -> None:
    """Run the ``tunesmith`` command. The console script calls this function."""
    from tunesmith_cli.streams import guard_streams

    guard_streams()
    try:
        from tunesmith_cli.app import app
    except (Exception, SystemExit) as error:  # a library that every command needs is broken
        _exit_without_commands(error)
    app.main()


def _exit_without_commands(error: BaseException) -> NoReturn:
    """Print the file that cannot be imported, using only the standard library, and exit."""
    import traceback

    frames = [frame.filename for frame in traceback.extract_tb(error.__traceback__)]
    files = [name for name in frames if not name.startswith("<frozen")]
    file = error.filename if isinstance(error, SyntaxError) else files[-1]
    what = f"{file}: import failed: {type(error).__name__}: {' '.join(str(error).split())}"
    print(
        f"error: {ascii(what)[1:-1]}\n\nhint: reinstall this file's package, then tunesmith",
        file=sys.stderr,
    )
    sys.exit(4)
