"""Find and copy the example projects of `tunesmith init --example NAME`."""

from __future__ import annotations

import shlex
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import suggest_name


def copy_example(name: str, target: Path, *, force: bool) -> None:
    """Copy an example project to a folder, and print its files and the next command.

    Raises:
        UsageError: the example is unknown, or a file exists and ``force`` is not set.
    """
    known = find_examples()
    if name not in known:
        guess = suggest_name(name, known)
        hint = f"did you mean {guess}?" if guess else f"known examples: {', '.join(known)}"
        raise UsageError(f'unknown example "{name}"', hint=hint)
    entries = (entry for entry in known[name].iterdir() if entry.is_file())  # no __pycache__
    files = {target / file.name: file.read_bytes() for file in entries}
    present = sorted(str(path) for path in files if path.exists())
    if present and not force:
        raise UsageError(
            f"{present[0]}: already exists",
            hint="choose another folder, or overwrite the file with --force",
        )
    target.mkdir(parents=True, exist_ok=True)
    for path, content in sorted(files.items()):
        write_atomic(path, content)
        click.echo(path)
    click.echo(f"\nnext: tunesmith run {shlex.quote(str(target / 'run.toml'))}", err=True)


def find_examples() -> dict[str, Traversable]:
    """Return the example projects by name: subfolders of this package with a run file."""
    package = resources.files("tunesmith_plugins.commands.starter")
    folders = (entry for entry in package.iterdir() if entry.is_dir())
    projects = {folder.name: folder for folder in folders if folder.joinpath("run.toml").is_file()}
    return dict(sorted(projects.items()))
