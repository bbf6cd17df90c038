"""``tunesmith completion``: print a shell script that completes commands and options."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class

from tunesmith_cli.common import common_options

VARIABLE = "_TUNESMITH_COMPLETE"
"""Environment variable that click's script sets to request completions."""
ADD_WORD = "COMPREPLY+=($value)"
"""Line in click's bash script that adds a completion."""
NO_SPACE = "[[ $value == *= ]] && compopt -o nospace"
"""Bash code that adds no space after ``--set KEY=``, so that the value can follow."""


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@common_options
@click.pass_context
def command(ctx: click.Context, shell: str) -> None:
    """Print the completion script for bash, zsh or fish.

    \b
    bash: tunesmith completion bash > ~/.local/share/bash-completion/completions/tunesmith
    zsh:  tunesmith completion zsh > ~/.zfunc/_tunesmith, with ~/.zfunc in fpath before compinit
    fish: tunesmith completion fish > ~/.config/fish/completions/tunesmith.fish
    """
    completion = get_completion_class(shell)
    assert completion is not None
    script = completion(ctx.find_root().command, {}, "tunesmith", VARIABLE)
    text = script.source_template % script.source_vars()
    click.echo(text.replace(ADD_WORD, f"{ADD_WORD}\n            {NO_SPACE}"))
