"""Choose a data loader, columns, a technique and evaluators that fit a data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tunesmith.catalog import Catalog, OfferNotFound
from tunesmith.config.evaluators import default_evaluators
from tunesmith.config.problems import convert_problems
from tunesmith.contracts import DataLoader
from tunesmith.errors import DataError, UsageError
from tunesmith.fence import fence
from tunesmith.offers import DataLoaderOffer, TechniqueOffer
from tunesmith.options import from_table
from tunesmith.records import Preference, Record
from tunesmith_data import RowLoader, guess_columns

FIRST_RECORDS = 1_000
"""Number of records that decide on technique and evaluators."""
ONE_GROUP = ("split_documents",)
"""Options that allow splitting data whose records are all in one group."""


@dataclass(frozen=True)
class Choice:
    """The parts of a run file that depend on the data."""

    loader: str = "jsonl"
    options: Mapping[str, object] = field(default_factory=dict)
    """Further keys of ``[data]``, as dotted keys."""
    technique: str = "lora"
    technique_options: Mapping[str, object] = field(default_factory=dict)
    """Further keys of ``[technique]``, as dotted keys."""
    evaluators: Sequence[str] = ()


def choose(data: Path, loader: str | None, catalog: Catalog) -> Choice:
    """Read the data and choose what fits its rows.

    Raises:
        UsageError: the file does not exist, or no data loader recognizes it.
        DataError: the data cannot be used as it is.
    """
    if not data.exists():
        raise UsageError(f"{data}: no such file")
    use = loader or catalog.recognize([str(data)])
    if use is None:
        known = ", ".join(o.offer.name for o in catalog.offers(DataLoaderOffer))
        raise UsageError(
            f"{data}: no data loader recognizes this file", hint=f"name one with --loader: {known}"
        )
    try:
        offered = catalog.find(DataLoaderOffer, use)
    except OfferNotFound as error:
        raise UsageError(f"--loader: {error.what}", hint=error.hint) from None
    table: dict[str, Any] = {"train": str(data.absolute())}
    try:
        from_table(offered.offer.config, table)
    except ValidationError as error:
        problems = convert_problems(error, "data", offered.offer.config)
        raise UsageError(f"--loader {use}: {next(problems)}", hint="write a run file") from None
    with fence(offered.plugin, "load"):
        built = offered.offer.build(from_table(offered.offer.config, table))
        columns = _find_columns(built)
        if columns:
            table["columns"] = columns
            built = offered.offer.build(from_table(offered.offer.config, table))
        train = built.load().train
    records = list(islice(train, FIRST_RECORDS))
    options: dict[str, object] = {f"columns.{name}": column for name, column in columns.items()}
    if len({record.group for record in train}) == 1 and records[0].group is not None:
        options |= {k: True for k in ONE_GROUP if k in offered.offer.config.model_fields}
    technique = _choose_technique(records, catalog)
    return Choice(
        loader=use,
        options=options,
        technique=technique.name if technique else "lora",
        technique_options=technique.options_for(records) if technique else {},
        evaluators=[c.offer.name for c in default_evaluators(catalog, records)],
    )


def _find_columns(loader: DataLoader) -> dict[str, str]:
    """Return the mapping of columns; empty if it is not needed, or cannot be guessed."""
    if not isinstance(loader, RowLoader):
        return {}
    try:
        return guess_columns(loader.first_columns()) or {}
    except DataError:
        return {}  # loading raises it again, with details about all rows


def _choose_technique(records: Sequence[Record], catalog: Catalog) -> TechniqueOffer[Any] | None:
    """Return the technique that learns most from these kinds of records; None if none accepts them.

    For pairs, prefer a technique that accepts only pairs: others learn just the better answers.
    """
    kinds = {type(record) for record in records}
    fitting = [o.offer for o in catalog.offers(TechniqueOffer) if kinds <= o.offer.accepts]
    if kinds == {Preference}:
        fitting.sort(key=lambda offer: (len(offer.accepts), offer.name))
    else:
        fitting.sort(key=lambda offer: offer.name != "lora")
    return fitting[0] if fitting else None
