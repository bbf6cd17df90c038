"""Choose a data loader, columns, a technique and evaluators that fit a data file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from glob import has_magic
from itertools import islice
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import default_evaluators
from tunesmith.config.run_file import dotted_items
from tunesmith.errors import UsageError
from tunesmith.offers import EvaluatorOffer, TechniqueOffer
from tunesmith.records import Chat, Preference, Record
from tunesmith_cli.data_source import DataSource, load_file, read_keys

FIRST_RECORDS = 1_000
"""Maximum number of records that determine the technique and the evaluators."""
FREE_TEXT = "text-overlap"
"""Evaluator that compares answers of any length."""
ONE_GROUP = ("split_documents",)
"""Options that allow splitting data even if all records are in one group."""


@dataclass(frozen=True)
class StarterChoice:
    """The components and columns that were chosen to fit the data."""

    loader: str = "jsonl"
    options: Mapping[str, object] = field(default_factory=dict)
    """Further keys of ``[data]``, as dotted keys."""
    technique: str = "lora"
    technique_options: Mapping[str, object] = field(default_factory=dict)
    """Further keys of ``[technique]``, as dotted keys."""
    evaluators: Sequence[str] = ()
    has_tool_calls: bool = False
    skipped: int = 0
    """Number of rows that cannot be used."""


def choose(data: DataSource, catalog: Catalog) -> StarterChoice:
    """Read a data file, and choose the components and columns that fit its rows.

    Raises:
        UsageError: the file does not exist, no data loader recognizes it, or the loader does not
            have these options.
        DataError: the file cannot be read, or its rows are invalid.
    """
    if not data.path.exists() and not has_magic(str(data.path)):
        raise UsageError(f"{data.path}: no such file", hint="check the path of your data file")
    # Once there is a run file to change, `check` explains rows that cannot be used.
    loaded = load_file(read_keys(data), catalog, {"max_skipped": 1.0})
    train = loaded.dataset.train
    table = {k: v for k, v in loaded.table.items() if k not in ("train", "max_skipped")}
    records = list(islice(train, FIRST_RECORDS))
    options = dict(dotted_items(table))
    if len({record.group for record in train}) == 1 and records[0].group is not None:
        options |= {k: True for k in ONE_GROUP if k in loaded.options.model_fields}
    technique = _choose_technique(records, catalog)
    return StarterChoice(
        loader=loaded.use,
        options=options,
        technique=technique.name if technique else "lora",
        technique_options=technique.options_for(records) if technique else {},
        evaluators=_choose_evaluators(records, catalog),
        has_tool_calls=any(map(_has_tool_calls, records)),
        skipped=len(loaded.dataset.skipped),
    )


def _has_tool_calls(record: Record) -> bool:
    return isinstance(record, Chat) and any(m.tool_calls for m in record.messages)


def _choose_evaluators(records: Sequence[Record], catalog: Catalog) -> list[str]:
    """Return the default evaluators; put ``text-overlap`` first if none generates answers."""
    chosen = [evaluator.offer for evaluator in default_evaluators(catalog, records)]
    names = [offer.name for offer in chosen]
    free_text = catalog.by_key(EvaluatorOffer).get(FREE_TEXT)
    if free_text is None or any(offer.generates for offer in chosen):
        return names
    accepted = free_text.offer.accepts
    fits = accepted is None or {type(record) for record in records} <= accepted
    return [FREE_TEXT, *names] if fits else names


def _choose_technique(records: Sequence[Record], catalog: Catalog) -> TechniqueOffer[Any] | None:
    """Return a technique that accepts these records, ``lora`` if possible, or None.

    For pairs, prefer a technique that accepts only pairs. Others only learn the better answers.
    """
    kinds = {type(record) for record in records}
    trained = (o.offer for o in catalog.offers(TechniqueOffer) if o.offer.promises.trains)
    fitting = [offer for offer in trained if kinds <= offer.accepts]
    if kinds == {Preference}:
        fitting.sort(key=lambda offer: (len(offer.accepts), offer.name))
    else:
        fitting.sort(key=lambda offer: offer.name != "lora")
    return fitting[0] if fitting else None
