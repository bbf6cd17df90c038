"""The command line. One file per command, imported only when that command is used."""

from __future__ import annotations


def main() -> None:
    """Entry point of the ``tunesmith`` command."""
    from tunesmith.cli.app import app

    app.main()
