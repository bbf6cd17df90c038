"""Records are immutable in depth, whatever a data loader passes."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict, fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import PICTURES, Picture

from tunesmith import records
from tunesmith.errors import DataError
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Part,
    Preference,
    Record,
    Text,
    TextPart,
    ToolCall,
    UnpairedPreference,
    exchanges,
    find_features,
    is_immutable,
    last_exchange,
    prompt_text,
    to_answer,
)
from tunesmith_data.text import content_key

TURNS = [Message("user", "q"), Message("assistant", "a")]
SLICES: Any = {"language": "de", "length": "short"}
KINDS: dict[type[Record], dict[str, Any]] = {
    Text: {"text": "t"},
    Completion: {"prompt": "p", "completion": "c"},
    Chat: {"messages": TURNS},
    Preference: {"prompt": TURNS[:1], "chosen": "c", "rejected": "r"},
    UnpairedPreference: {"prompt": TURNS[:1], "completion": "c", "label": False},
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
    tools: Any = [["a list"]]
    chat = Chat(source="f:1", messages=(Message("user", "q", tools=tools),))
    assert not is_immutable(chat)


def test_content_that_is_neither_text_nor_parts_is_refused() -> None:
    parts: Any = [{"type": "text", "text": "q"}]
    with pytest.raises(TypeError, match="must be text or parts, got"):
        Message("user", parts)


def test_parts_without_weights_are_text() -> None:
    parts: Any = [TextPart("a"), TextPart("b")]
    assert Message("user", parts) == Message("user", "ab")
    weighted: Any = [TextPart("a"), TextPart("b", 0.5)]
    message = Message("assistant", weighted)
    assert message.content == tuple(weighted)
    assert message.text == message.shown_text == "ab"
    assert hash(message)


@given(st.lists(st.text()))
def test_plain_parts_are_the_same_message_as_their_text(texts: list[str]) -> None:
    message = Message("user", tuple(map(TextPart, texts)))
    plain = Message("user", "".join(texts))
    assert (message, repr(message), hash(message)) == (plain, repr(plain), hash(plain))
    assert message.content == message.text and not (message.text_parts or message.media)


PIECES = st.one_of(
    st.builds(TextPart, st.text(), st.sampled_from([0.0, 0.5, 1.0])), st.builds(Picture, st.text())
)


@given(st.lists(PIECES, min_size=1))
def test_media_are_kept_and_never_become_text(parts: list[Part]) -> None:
    message = Message("user", tuple(parts))
    kinds = find_features(Chat(source="f:1", messages=(message,)))
    media = tuple(part for part in parts if isinstance(part, Picture))
    assert message.media == media and ("media" in kinds) == bool(media)
    assert message.has_weights == any(isinstance(p, TextPart) and p.weight != 1 for p in parts)
    assert hash(message) == hash(Message("user", tuple(parts)))
    if media:
        for name in ("text", "text_parts"):
            with pytest.raises(DataError, match="a user message: has a part of type Picture, but"):
                getattr(message, name)
        assert all(repr(part) in message.shown_text for part in media)


def test_the_text_of_a_stored_message_is_as_before() -> None:
    """Fingerprints are hashes of the ``repr``, and rows of a winner the fields of the record."""
    weighted = Message("assistant", (TextPart("a", 0.0), TextPart("b")))
    assert repr(weighted).startswith(
        "Message(role='assistant', content=(TextPart(text='a', weight=0.0), "
        "TextPart(text='b', weight=1.0)), reasoning='', "
    )
    assert asdict(weighted)["content"] == (
        {"text": "a", "weight": 0.0},
        {"text": "b", "weight": 1.0},
    )


@pytest.mark.parametrize(
    ("message", "is_trained"),
    [
        (Message("user", "q"), False),
        (Message("assistant", "a"), True),
        (Message("assistant", "a", weight=0.0), False),
        (Message("assistant", "a", weight=0.1), True),
        (Message("assistant", (TextPart("a", 0.0), TextPart("b", 0.0))), False),
        (Message("assistant", (TextPart("a", 0.0), TextPart("b", 0.5))), True),
        (Message("assistant", "", tool_calls=(ToolCall("f"),)), True),
    ],
)
def test_answers_with_a_weight_are_trained(message: Message, is_trained: bool) -> None:
    assert message.is_trained is is_trained


def test_answers_without_weight_are_no_exchanges() -> None:
    turns = (
        *(Message("user", "q"), Message("assistant", "a", weight=0.0)),
        *(Message("user", "q2"), Message("assistant", "a2")),
    )
    chat = Chat(source="f:1", messages=turns)
    assert list(exchanges(chat)) == [(turns[:3], turns[3])]
    assert last_exchange(chat) == (turns[:3], turns[3])


TOOLS = ('{"type": "function", "function": {"name": "f"}}',)


@pytest.mark.parametrize(
    ("turns", "features"),
    [
        ([Message("user", "q"), Message("assistant", "a")], set()),
        ([Message("user", "q", tools=TOOLS), Message("assistant", "a")], {"tools"}),
        ([*TURNS[:1], Message("assistant", "", tool_calls=(ToolCall("f"),))], {"tools"}),
        ([*TURNS[:1], Message("assistant", "a", reasoning="r")], {"reasoning"}),
        ([*TURNS, *TURNS[:1], Message("assistant", "a", weight=0.0)], {"weights"}),
        ([*TURNS[:1], Message("assistant", (TextPart("a", 2.0),))], {"weights"}),
        ([*PICTURES[0].messages], {"media"}),
    ],
)
def test_features_are_what_a_technique_could_ignore(
    turns: list[Message], features: set[str]
) -> None:
    chat = Chat(source="f:1", messages=tuple(turns))
    assert find_features(chat) == features
    # Two conversations that differ in one of these are not the same row.
    plain = Chat(source="f:1", messages=tuple(TURNS))
    if features & {"tools", "reasoning", "media"}:
        assert content_key(chat) != content_key(plain)


def test_labels_are_a_part_of_the_content() -> None:
    good, bad = (
        UnpairedPreference(source="f:1", prompt=(TURNS[0],), completion="a", label=label)
        for label in (True, False)
    )
    assert content_key(good) != content_key(bad)
    assert last_exchange(bad) == ((TURNS[0],), TURNS[1])


@pytest.mark.parametrize(
    ("message", "is_text"),
    [
        (Message("assistant", "a"), True),
        (Message("assistant", "a", weight=0.5), True),
        (Message("assistant", "a", reasoning="r"), False),
        (Message("assistant", "a", tool_calls=(ToolCall("f"),)), False),
        (Message("assistant", (TextPart("a", 0.5),)), False),
    ],
)
def test_an_answer_is_text_if_it_is_nothing_else(message: Message, is_text: bool) -> None:
    assert to_answer(message) == ("a" if is_text else message)


def test_the_text_of_a_prompt_shows_media_as_their_repr() -> None:
    text = prompt_text(PICTURES[0].messages)
    assert text.startswith("Its capital?Picture(country=") and "\n" in text
    assert prompt_text("plain") == "plain"
