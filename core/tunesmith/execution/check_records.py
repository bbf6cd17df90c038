"""Check that a data loader's records exist, suit the technique and are immutable.

If a plugin could change a record, it would change the data of every later plugin.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.errors import DataError, PluginError
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    UnpairedPreference,
    find_features,
    has_media,
    is_immutable,
)
from tunesmith.text import one_line


def check_records(records: Sequence[Record], part: str, plan: Plan) -> Iterator[Record]:
    """Yield the records of a split, and check that the technique accepts each.

    Raises:
        DataError: the split is empty, or the technique does not accept a record; names the record.
        PluginError: the data loader returned something that is not a record, a mutable record, or a
            record whose fields have wrong types.
    """
    offer, plugin = plan.technique.offer, plan.data.offered.plugin
    for record in records:
        if not isinstance(record, Record):
            what = f"returned a value of type {type(record).__name__} instead of a Record"
            raise PluginError(f'plugin "{plugin.full_name}" {what}')
        _check_accepted(record, offer)
        if "media" in offer.trains_on and has_media([record]):
            _check_media(record, plan)
        if not is_immutable(record):
            raise PluginError(
                f'plugin "{plugin.full_name}" created a mutable record: '
                f"{record.source} contains a list or a dict"
            )
        if not _has_texts(record):
            raise PluginError(
                f'plugin "{plugin.full_name}" created a record with wrong types: '
                f"every required field of {record.source} must be a text or messages"
            )
        yield record
    if not records:
        raise DataError(
            "data",
            f"none of the {part} rows can be used",
            hint="`tunesmith data check FILE` shows what is wrong with the rows",
        )


def _check_accepted(record: Record, offer: TechniqueOffer[Any]) -> None:
    kind = type(record)
    if kind not in offer.accepts:
        kinds = ", ".join(sorted(kind.__name__ for kind in offer.accepts))
        meaning = one_line((kind.__doc__ or "").split(".")[0], 100)
        raise DataError(
            record.source,
            f"technique {offer.name} cannot train on {kind.__name__} records ({meaning})",
            hint=f"{offer.name} accepts {kinds}",
        )
    if ignored := sorted(find_features(record) - offer.trains_on):
        known = ", ".join(sorted(offer.trains_on)) or "only text"
        raise DataError(
            record.source,
            f"technique {offer.name} does not train on the {' and '.join(ignored)} of this record",
            hint=f"{offer.name} trains on {known}: remove the rest from the rows, or use another "
            "technique",
        )


def _check_media(record: Record, plan: Plan) -> None:
    """Raise an error if a component named in the run file cannot read a record's media."""
    named: list[Any] = [*plan.evaluators, *(plan.baselines if plan.baseline_options.use else ())]
    for offer in (component.offer for component in named):
        if not offer.reads_media:
            what = f"{offer.kind} {offer.name} cannot read the media of this record"
            hint = f"remove the {offer.kind} from the run file, or the media from the rows"
            raise DataError(record.source, what, hint=hint)


def _has_texts(record: Record) -> bool:
    """Return True if a record of a core kind has texts or messages in all required fields."""
    match record:
        case Text(text=str()) | Completion(prompt=str(), completion=str()):
            return True
        case (
            Chat(messages=messages)
            | Preference(prompt=messages, chosen=str(), rejected=str())
            | UnpairedPreference(prompt=messages, completion=str())
        ):
            return all(isinstance(message, Message) for message in messages)
    return not isinstance(record, Text | Completion | Chat | Preference | UnpairedPreference)
