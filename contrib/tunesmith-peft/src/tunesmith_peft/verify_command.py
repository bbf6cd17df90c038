"""``tunesmith peft verify``: show what works with each method of the installed PEFT."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import click

from tunesmith.text import format_count
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_peft.peft_source import list_methods


@click.command("verify")
@click.argument("methods", nargs=-1)
@click.option("--markdown", is_flag=True, help="Print a Markdown table.")
@result_options
def command(state: CliState, methods: Sequence[str], markdown: bool, as_json: bool) -> None:
    """Train METHODS, or all methods, on a tiny model for a few seconds each, and compare.

    Packed rows are compared with padded ones, a resumed run with an uninterrupted one, and
    the artifact in PEFT alone with the trained model.
    """
    from tunesmith_peft.verify_methods import COLUMNS, verify_method
    from tunesmith_torch.testing.tiny_model import get_tiny_model_folder

    model, rows = get_tiny_model_folder(), []
    for number, name in enumerate(chosen := methods or [*list_methods()], 1):
        render.print_note(f"{name} ({number} of {format_count(len(chosen), 'method')})")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PEFT's advice on options
            outcome = verify_method(name, model)
        rows.append([name, *(outcome.results.get(column, "") for column in COLUMNS)])
    heads = ["method", *COLUMNS]
    if as_json:
        shown = [dict(zip(heads, row, strict=True)) for row in rows]
        render.print_json({"methods": shown})
    elif markdown:
        for row in [heads, ["---"] * len(heads), *rows]:
            click.echo(f"| {' | '.join(row)} |")
    else:
        render.print_table(heads, rows)
