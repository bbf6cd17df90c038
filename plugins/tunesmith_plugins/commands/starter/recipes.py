"""Copy the project of a recipe: `tunesmith init --recipe NAME`."""

from __future__ import annotations

from pathlib import Path

from tunesmith.catalog import Catalog, OfferNotFoundError
from tunesmith.errors import UsageError
from tunesmith.offers import RecipeOffer
from tunesmith.storage import write_atomic
from tunesmith_cli import render

HELPDESK, REPAIRS = (
    RecipeOffer(
        name=name, summary=summary, package="tunesmith_plugins.commands.starter", folder=name
    )
    for name, summary in (
        ("helpdesk", "assign help-desk messages to the queues of a company"),
        ("repairs", "write work orders in a house style from the messages of tenants"),
    )
)


def copy_recipe(name: str, target: Path, catalog: Catalog, *, force: bool) -> None:
    """Copy the project of a recipe to a folder, and print its files and the next command.

    Raises:
        UsageError: the recipe is unknown, or a file exists and ``force`` is not set.
    """
    try:
        recipe = catalog.find(RecipeOffer, name).offer
    except OfferNotFoundError as error:
        raise UsageError(error.what, hint=error.hint) from None
    files = {target / path: content for path, content in recipe.read_files().items()}
    present = [str(path) for path in files if path.exists()]
    if present and not force:
        raise UsageError(
            f"{present[0]}: already exists",
            hint="choose another folder, or overwrite the file with --force",
        )
    for path, content in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, content)
        render.print_text(str(path))
    render.print_note(f"next: tunesmith run {render.shell_path(target / 'run.toml')}")
