"""Check the records of a data loader: there are some, the technique accepts them, none can change.

A record that a plugin could change would change the data of every plugin after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.errors import DataError, PluginError
from tunesmith.offers import Plugin, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Record, find_features, is_immutable
from tunesmith.text import one_line


def check_records(records: Sequence[Record], part: str, plan: Plan) -> Iterator[Record]:
    """Yield the records of a part of the data, each checked: the technique accepts its kind.

    Raises:
        DataError: naming the first record that it does not accept, or there are no records.
        PluginError: the data loader returned something else, or records that are not immutable.
    """
    offer, plugin = plan.technique.offer, plan.data.offered.plugin
    for record in records:
        if not isinstance(record, Record):
            name = type(record).__name__
            raise PluginError(f'plugin "{plugin.full_name}" returned {name} in place of a Record')
        _check_accepted(record, offer)
        if not is_immutable(record):
            raise PluginError(
                f'plugin "{plugin.full_name}" made a record that can be changed: '
                f"{record.source} holds a list or a dict"
            )
        yield record
    if not records:
        raise DataError("data", f"no usable {part} rows")


def _check_accepted(record: Record, offer: TechniqueOffer[Any]) -> None:
    kind = type(record)
    if kind not in offer.accepts:
        kinds = ", ".join(sorted(kind.__name__ for kind in offer.accepts))
        meaning = one_line((kind.__doc__ or "").split(".")[0], 100)
        raise DataError(
            record.source,
            f"technique {offer.name} cannot train on a {kind.__name__} record ({meaning})",
            hint=f"{offer.name} accepts {kinds}",
        )
    if ignored := sorted(find_features(record) - offer.trains_on):
        known = ", ".join(sorted(offer.trains_on)) or "text alone"
        raise DataError(
            record.source,
            f"technique {offer.name} would ignore the {' and '.join(ignored)} of this record",
            hint=f"{offer.name} trains on {known}: remove the rest from the rows, or use another "
            "technique",
        )


def check_unchanged(content: Sequence[int], records: Sequence[Record], plugin: Plugin) -> None:
    """Check that a plugin has not changed a record, given the hashes of the records before.

    Raises:
        PluginError: naming the plugin and the record.
    """
    for before, record in zip(content, records, strict=True):
        if not is_immutable(record) or hash(record) != before:
            raise PluginError(
                f'plugin "{plugin.full_name}" changed the record {record.source}; plugins must not '
                "change records"
            )
