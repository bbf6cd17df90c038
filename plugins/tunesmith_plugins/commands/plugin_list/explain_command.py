"""``tunesmith explain``: explain a run-file key, an exit code or an error."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from tunesmith.errors import UsageError
from tunesmith.renamed import find_present_name
from tunesmith.text import one_line, suggest_name
from tunesmith_cli import render
from tunesmith_cli.common import CliState, result_options
from tunesmith_plugins.commands.plugin_list.describe import REQUIRED, UNSET
from tunesmith_plugins.commands.plugin_list.explain import (
    Key,
    error_classes,
    explain_error,
    explain_exit_code,
    find_keys,
    list_keys,
)

MAX_FORMS = 3
"""Maximum number of keys to explain in full; if there are more, they are only listed."""


def complete_keys(
    ctx: click.Context, argument: click.Parameter, start: str
) -> list[CompletionItem]:
    """Return the keys that start with a text, each with the first sentence of its help."""
    keys = {key.key: key.option["help"] for key in list_keys(ctx.ensure_object(CliState).catalog())}
    return [
        CompletionItem(key, help=one_line(text.partition(". ")[0]))
        for key, text in sorted(keys.items())
        if key.startswith(start)
    ]


@click.command("explain")
@click.argument("word", metavar="KEY|CODE|ERROR", required=False, shell_complete=complete_keys)
@click.option(
    "--schema", is_flag=True, help="Print the JSON Schema of all keys instead, for editors."
)
@result_options
def command(state: CliState, word: str | None, schema: bool, as_json: bool) -> None:
    """Explain a run-file key, an exit code or an error.

    For a key, prints type, default, bounds, help, owner and an example. The end of a key is enough:
    rank, adapter.rank and technique.adapter.rank are the same.

    With --schema, prints the JSON Schema of run files, with the options of the installed plugins.
    Editors use it to complete and validate run files. Save it as tunesmith.schema.json, and start
    the run file with the line `#:schema ./tunesmith.schema.json`.
    """
    if schema == (word is not None):
        raise UsageError(
            "explain needs either KEY|CODE|ERROR or --schema",
            hint="for example `tunesmith explain technique.epochs`",
        )
    if word is None:
        from tunesmith_plugins.commands.plugin_list.json_schema import run_file_schema

        render.print_json(run_file_schema(state.catalog()))
    else:
        _explain(state, word, as_json)


def _explain(state: CliState, word: str, as_json: bool) -> None:
    text = explain_exit_code(int(word)) if word.isdecimal() and len(word) < 4 else None
    keys = list_keys(state.catalog()) if text is None else []
    found = find_keys(keys, word.strip("[]"))
    text = text or (None if found else explain_error(word))
    if text is None and not found:
        raise UsageError(
            f'"{word}" is neither a run-file key nor an exit code or an error',
            hint=_hint(keys, word),
        )
    if as_json:
        explained = [
            {**key.option, "name": key.key, "owners": list(key.owners), "example": key.example}
            for key in found
        ]
        render.print_json({"schema": "tunesmith.explain/1", "text": text, "keys": explained})
    elif text is not None:
        render.print_paragraph(text)
    elif len(found) <= MAX_FORMS:
        for key in found:
            show_key(key)
    else:
        rows = [[key.key, _shorten(key.owners), one_line(key.option["help"], 200)] for key in found]
        render.print_table(["key", "owner", "help"], rows)
        render.print_note(f"{len(found)} keys match; pass a full key to see its details")


def show_key(key: Key) -> None:
    """Print a key's type, default, bounds, help, owner and an example."""
    default = key.option["default"]
    value = default if default in (REQUIRED, UNSET) else f"= {default}"
    kind = ", ".join(filter(None, [key.option["type"], key.option["bounds"]]))
    render.print_paragraph(f"{key.key} {one_line(value, 200)} ({kind})", style="strong")
    render.print_paragraph(key.option["help"], indent="  ")
    if key.option["keys"]:
        render.print_paragraph(f"keys: {key.option['keys']}", indent="  ")
    render.print_paragraph(f"owner: {', '.join(key.owners)}", indent="  ")
    render.print_paragraph(f"example: {one_line(key.example, 200)}", indent="  ")


def _shorten(owners: tuple[str, ...]) -> str:
    return owners[0] if len(owners) == 1 else f"{owners[0]} and {len(owners) - 1} more"


def _hint(keys: list[Key], word: str) -> str:
    known = {key.key for key in keys} | {key.key.rpartition(".")[2] for key in keys}
    guess = find_present_name(word, known) or suggest_name(word, known | error_classes().keys())
    return (
        f"did you mean {guess}?"
        if guess
        else "list the keys of a component with: tunesmith plugins show NAME"
    )
