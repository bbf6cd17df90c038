"""Records are immutable in depth, whatever a data loader passes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, fields
from typing import Any

import pytest

from tunesmith import records
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text, is_immutable

TURNS = [Message("user", "q"), Message("assistant", "a")]
SLICES: Any = {"language": "de", "length": "short"}
KINDS: dict[type[Record], dict[str, Any]] = {
    Text: {"text": "t"},
    Completion: {"prompt": "p", "completion": "c"},
    Chat: {"messages": TURNS},
    Preference: {"prompt": TURNS[:1], "chosen": "c", "rejected": "r"},
}


def test_every_kind_of_record_is_here() -> None:
    found = {value for value in vars(records).values() if isinstance(value, type)}
    assert set(KINDS) == {kind for kind in found if issubclass(kind, Record) and kind != Record}


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("slices", [SLICES, [["language", "de"]], (), [("language", "de")]])
def test_lists_and_dicts_become_tuples(kind: type[Record], slices: Any) -> None:
    record = kind(source="f:1", slices=slices, **KINDS[kind])
    assert is_immutable(record)
    assert record.slices == tuple(map(tuple, dict(slices).items()))
    for field in fields(record):
        with pytest.raises(FrozenInstanceError):
            setattr(record, field.name, None)


def test_a_list_that_the_loader_changes_later_does_not_change_the_record() -> None:
    turns = [*TURNS]
    chat = Chat(source="f:1", messages=turns)  # type: ignore[arg-type]
    turns.append(Message("user", "more"))
    assert chat.messages == tuple(TURNS)


def test_a_record_with_a_list_inside_a_message_is_not_immutable() -> None:
    parts: Any = ["a list"]
    assert not is_immutable(Chat(source="f:1", messages=(Message("user", parts),)))
