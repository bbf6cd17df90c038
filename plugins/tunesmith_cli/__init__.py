"""The command line: the commands that plugins offer, their common options, printing, exit codes.

It is above the core, which runs without it. A command is imported only when it is used.
"""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``tunesmith`` command."""
    from tunesmith_cli.app import app

    app.main()
