"""Print a script that lets a shell complete commands and options (``--show-completion``)."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

VARIABLE = "_TUNESMITH_COMPLETE"
"""Environment variable that click's script sets to ask for completions."""
ADD_WORD = "COMPREPLY+=($value)"
"""Line of click's bash script that adds a completion."""
NO_SPACE = "[[ $value == *= ]] && compopt -o nospace"
"""Bash code that adds no space after ``--set KEY=``, so the value can follow."""
FILES = {
    "bash": "~/.local/share/bash-completion/completions/tunesmith",
    "zsh": "~/.zfunc/_tunesmith, with ~/.zfunc in fpath before compinit",
    "fish": "~/.config/fish/completions/tunesmith.fish",
}
"""File for the script, by shell."""


def print_completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell, and exit."""
    completion = get_completion_class(shell)
    assert completion is not None
    script = completion(ctx.find_root().command, {}, "tunesmith", VARIABLE)
    text = script.source_template % script.source_vars()
    text = text.replace(ADD_WORD, f"{ADD_WORD}\n            {NO_SPACE}")
    click.echo(f"{text.rstrip()}\n\n# Save this script as {FILES[shell]}.")
    ctx.exit()
