"""``tunesmith data card``: write the Croissant description of a folder of row files."""

from __future__ import annotations

import json
from pathlib import Path

import click

from tunesmith.errors import UsageError
from tunesmith.storage import write_atomic
from tunesmith.text import format_count
from tunesmith_cli import render

CARD = "croissant.json"


@click.command("card")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path, file_okay=False))
@click.option("--name", help="Name of the dataset. Default: the name of the folder.")
@click.option("--description", default="", help="A sentence about the content.")
@click.option("--license", "license_", metavar="URL", help="License of the data.")
@click.option("--url", help="Address of the dataset, if it is published.")
@click.option(
    "--based-on", multiple=True, metavar="SOURCE", help="Where the rows come from. Repeatable."
)
def command(
    folder: Path,
    name: str | None,
    description: str,
    license_: str | None,
    url: str | None,
    based_on: tuple[str, ...],
) -> None:
    """Describe the .jsonl files in FOLDER in Croissant, and write FOLDER/croissant.json.

    The description has the columns of each file with their types, its size and SHA-256 hash. Files
    named train, validation and test, as `tunesmith data split` writes them, become splits.
    """
    from tunesmith_croissant.card import describe_folder, validate

    target = folder / CARD
    if target.exists():
        raise UsageError(f"{target}: already exists", hint="remove it to write a new one")
    facts = {"description": description, "license": license_, "url": url}
    sources = {"isBasedOn": list(based_on)} if based_on else {}
    card = describe_folder(folder, name or folder.resolve().name, {**facts, **sources})
    validate(card)
    write_atomic(target, json.dumps(card, indent=2) + "\n")
    count = format_count(len(card["distribution"]), "file")
    render.print_text(f"described {count} in {render.shell_path(target)}")
