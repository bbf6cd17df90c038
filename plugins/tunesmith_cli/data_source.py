"""Read the data for a command, either from a run file or directly from a data file.

The options for a data file are keys of ``[data]``, so they also override those of a run file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from tunesmith_cli.common import set_option

if TYPE_CHECKING:
    from tunesmith.catalog import Catalog
    from tunesmith.contracts import Dataset
    from tunesmith.offers import DataLoaderOffer, Offered
    from tunesmith.options import Options

F = TypeVar("F", bound=Callable[..., Any])
_KEYS = {
    "loader": "use",
    "encoding": "encoding",
    "sheet": "sheet",
    "prompt": "columns.prompt",
    "completion": "columns.completion",
}
"""Keys of ``[data]`` by option."""


@dataclass(frozen=True)
class DataSource:
    """A run file or a data file, with overrides of its keys in the syntax of ``--set``."""

    path: Path
    sets: tuple[str, ...] = ()

    @property
    def is_run_file(self) -> bool:
        """True if ``path`` names a run file, and False if it names a data file."""
        return self.path.suffix == ".toml" and self.path.is_file()


@dataclass(frozen=True)
class LoadedFile:
    """A data file, with its data loader and the keys of ``[data]`` used to load it."""

    use: str
    options: type[Options]
    """The class of the data loader's options."""
    table: Mapping[str, Any]
    dataset: Dataset


def file_options(function: F) -> F:
    """Add the options that state how to read a data file, and pass them as ``file_sets``."""

    @wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        given = {key: values.pop(name) for name, key in _KEYS.items()}
        sets = (f"data.{key}={json.dumps(v)}" for key, v in given.items() if v is not None)
        return function(*args, file_sets=tuple(sets), **values)

    wrapped: Any = command
    for option in (
        click.option("--loader", help="Data loader for the file. Default: detected from the file."),
        click.option("--encoding", metavar="NAME", help="Encoding of the file, such as cp1252."),
        click.option("--sheet", metavar="TITLE", help="Sheet of an Excel workbook."),
        click.option("--completion", metavar="COLUMN", help="Column of the answer to learn."),
        click.option("--prompt", metavar="COLUMN", help="Column of the prompt."),
    ):
        wrapped = option(wrapped)
    return cast(F, wrapped)


def data_argument(function: F) -> F:
    """Add the argument ``RUN.toml|FILE`` and its options, and pass them as ``data``, a DataSource.

    The options are ``--set`` and those of :func:`file_options`. With a data file, ``--set`` accepts
    only keys of ``[data]``.
    """

    @wraps(function)
    def command(*args: Any, **values: Any) -> Any:
        sets = (*values.pop("file_sets"), *values.pop("sets"))
        source = DataSource(values.pop("path"), sets)
        return function(*args, data=source, **values)

    path = click.argument("path", metavar="RUN.toml|FILE", type=click.Path(path_type=Path))
    return cast(F, path(set_option(file_options(command))))


def read_keys(source: DataSource) -> dict[str, Any]:
    """Return the keys of ``[data]`` that the command line states for a data file.

    Raises:
        UsageError: an override is not a key of ``[data]``.
    """
    from tunesmith.config.run_file import read_run_file
    from tunesmith.errors import UsageError

    tables = {"data": {"train": str(source.path)}}
    read = read_run_file(tables, sets=source.sets, environment={}).tables
    if other := [name for name in read if name != "data"]:
        raise UsageError(
            f"--set {other[0]}: {source.path} is not a run file",
            hint="with a data file, --set takes keys of [data], such as data.group=ticket",
        )
    return cast(dict[str, Any], read["data"])


def load_file(
    keys: Mapping[str, Any], catalog: Catalog, defaults: Mapping[str, Any] | None = None
) -> LoadedFile:
    """Load a data file, folder or pattern.

    The key ``use`` names the data loader. Without it, use the loader that recognizes the file.

    Args:
        keys: the keys of ``[data]``; ``train`` is the file.
        catalog: where to look for the data loader.
        defaults: options that are used if the data loader has them and ``keys`` does not.

    Raises:
        UsageError: no data loader recognizes the file, or the loader does not have these keys.
        DataError: the file cannot be read, or its rows are invalid.
    """
    from tunesmith.fence import fence
    from tunesmith_data import RowLoader

    use, offered = find_loader(keys, catalog)
    options = offered.offer.config
    table = {key: v for key, v in (defaults or {}).items() if key in options.model_fields}
    table |= {key: value for key, value in keys.items() if key != "use"}
    loader = _build(offered, table)
    with fence(offered.plugin, "load"):
        if isinstance(loader, RowLoader) and (columns := loader.guess_columns()):
            table["columns"] = columns
            loader = _build(offered, table)
        return LoadedFile(use, options, table, loader.load())


def find_loader(
    keys: Mapping[str, Any], catalog: Catalog
) -> tuple[str, Offered[DataLoaderOffer[Any]]]:
    """Return the name and offer of the loader ``use``, or of the one that recognizes the file.

    Raises:
        UsageError: no such loader is installed, or no loader recognizes the file.
    """
    from tunesmith.catalog import OfferNotFoundError
    from tunesmith.errors import UsageError
    from tunesmith.offers import DataLoaderOffer

    use = keys.get("use") or catalog.recognize([keys["train"]])
    if use is None:
        known = ", ".join(o.offer.name for o in catalog.offers(DataLoaderOffer))
        raise UsageError(
            f"{keys['train']}: no data loader recognizes this file",
            hint=f"choose a data loader with --loader: {known}",
        )
    try:
        return use, catalog.find(DataLoaderOffer, use)
    except OfferNotFoundError as error:
        raise UsageError(f"--loader: {error.what}", hint=error.hint) from None


def _build(offered: Offered[DataLoaderOffer[Any]], table: Mapping[str, Any]) -> Any:
    from pydantic import ValidationError

    from tunesmith.config.problems import convert_problems
    from tunesmith.errors import ConfigError
    from tunesmith.options import from_table

    config = offered.offer.config
    try:
        return offered.offer.build(from_table(config, dict(table)))
    except ValidationError as error:
        problems = [
            replace(problem, where=f"--loader {offered.offer.name}: {problem.where}")
            for problem in convert_problems(error, "data", config)
        ]
        raise ConfigError(problems) from None
