"""``tunesmith peft methods``: list the methods of the installed PEFT, and their options."""

from __future__ import annotations

import click

from tunesmith.errors import UsageError
from tunesmith.text import one_line
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_peft.methods import find_method
from tunesmith_peft.options import find_unknown
from tunesmith_peft.peft_source import list_methods, read_options


@click.command("methods")
@click.argument("method", required=False)
@result_options
def command(state: CliState, method: str | None, as_json: bool) -> None:
    """List the methods of the installed PEFT, or the options of METHOD.

    Set them in a run file: `technique.method` and the table `[technique.options]`.
    """
    if method is None:
        rows = [[name, _describe(name)] for name in list_methods()]
        if as_json:
            render.print_json({"methods": dict(rows)})
        else:
            render.print_table(["method", "training"], rows)
        return
    if problem := find_unknown(method):
        raise UsageError(problem)
    options = read_options(method).values()
    if as_json:
        keys = ("annotation", "default", "help")
        shown = {o.name: {key: getattr(o, key) for key in keys} for o in options}
        render.print_json({"method": method, "training": _describe(method), "options": shown})
        return
    render.print_paragraph(f"{method}: {_describe(method)}", style="strong")
    for option in options:
        default = f" = {option.default}" if option.default else ""
        render.print_paragraph(
            one_line(f"{option.name}{default} ({option.annotation})", 300), style="strong"
        )
        if option.help:
            render.print_paragraph(one_line(option.help, 600), indent="    ")


def _describe(name: str) -> str:
    method = find_method(name)
    return "not known: tested before it trains" if method is None else method.describe()
