"""Rows of one conversation stay together: all of their exchanges are compared."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from splitting import request_for

from tunesmith.contracts import Split
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text, ToolCall
from tunesmith_data.splits import has_earlier_exchanges, read_exchanges, split_records

WORDS = [f"word{i}" for i in range(2_000)]


def turns(*texts: str, weights: Sequence[float] = ()) -> tuple[Message, ...]:
    return tuple(
        Message("assistant" if n % 2 else "user", text, weight=dict(enumerate(weights)).get(n, 1.0))
        for n, text in enumerate(texts)
    )


def chat(*texts: str, system: str = "", weights: Sequence[float] = ()) -> Chat:
    start = (Message("system", system),) if system else ()
    return Chat(source="a:1", messages=(*start, *turns(*texts, weights=weights)))


def ties(*records: Record) -> list[int]:
    """The cluster of each of these records, among others that are like none."""
    rng = Random(1)
    others = [chat(" ".join(rng.choices(WORDS, k=9)), f"{n}", f"and {n}?", "x") for n in range(60)]
    rows = [*records, *others]
    split = split_records(iter(rows), request_for(rows))
    return [*split.clusters[: len(records)]]


def test_an_exchange_has_its_context_and_its_answer() -> None:
    found = read_exchanges([chat("one", "two", "three", "four"), chat("One?", "two", system="Hi")])
    assert found.rows.tolist() == [0, 0, 1] and found.is_last.tolist() == [False, True, True]
    assert found.contexts[0] == found.contexts[2] != found.contexts[1]
    assert found.ends[0] == found.ends[2]
    assert found.asked.tolist() == [True, True, True]
    assert read_exchanges([]).rows.tolist() == []


def test_only_trained_answers_are_exchanges() -> None:
    untrained = chat("one", "two", "three", "four", weights=[1, 0])
    assert read_exchanges([untrained]).rows.tolist() == [0]
    assert not has_earlier_exchanges(untrained)
    assert has_earlier_exchanges(chat("one", "two", "three", "four"))
    assert not has_earlier_exchanges(Completion(source="a", prompt="q", completion="a"))


def test_the_beginning_of_a_conversation_is_tied_to_it() -> None:
    long = chat("where is it", "on its way", "and now", "still", "why", "snow")
    short = chat("Where is it?", "on its way")
    other = chat("where is it", "in another place")  # its prompt is trained with another answer
    assert len({*ties(long, short, other)}) == 1
    assert len({*ties(long, chat("where is she", "on her way"))}) == 2


def test_branches_of_a_conversation_are_tied_and_equal_questions_in_others_are_not() -> None:
    first = chat("where is it", "on its way", "and now", "still")
    branch = chat("where is it", "on its way", "since when", "may")
    elsewhere = chat("I lost a card", "which one", "where is it", "on its way")
    assert ties(first, branch, elsewhere)[:2] == [0, 0]
    assert ties(first, elsewhere) == [0, 1]


def test_kinds_of_records_are_tied_to_each_other() -> None:
    long = chat("where is it", "on its way", "and now", "still")
    plain = Completion(source="a", prompt="where is it", completion="here")
    pair = Preference(source="a", prompt=turns("where is it"), chosen="x", rejected="y")
    assert len({*ties(long, plain, pair)}) == 1


def test_calls_of_tools_are_answers() -> None:
    def called(city: str, *more: Message) -> Chat:
        call = Message("assistant", "", tool_calls=(ToolCall("weather", f'{{"city": "{city}"}}'),))
        asked = Message("user", "what is the weather")
        return Chat(source="a", messages=(asked, call, Message("tool", "12 C"), *more))

    answer = Message("assistant", "It is 12 C")
    assert len({*ties(called("Rome", answer), called("Rome"))}) == 1
    one, other = (read_exchanges([called(city, answer)]) for city in ("Rome", "Oslo"))
    assert one.contexts[0] == other.contexts[0] and one.contexts[1] != other.contexts[1]


def test_a_text_is_tied_to_the_longer_one_that_begins_as_it_does() -> None:
    short = Text(source="a", text="Human: hello\nAssistant: good day")
    long = Text(source="a", text=f"{short.text}\nHuman: what is new\nAssistant: nothing")
    assert ties(long, short) == [0, 0]
    assert ties(long, Text(source="a", text="Human: hello\nAssistant: no")) == [0, 1]


def conversations(rng: Random, count: int) -> list[Chat]:
    """Conversations as rows, one for each answer: with all turns up to it."""
    rows = []
    for number in range(count):
        texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(2 * rng.randint(1, 4))]
        for end in range(2, len(texts) + 1, 2):
            rows.append(Chat(source=f"talk {number}", messages=turns(*texts[:end])))
    return rows


@pytest.mark.parametrize("near_duplicates", [True, False])
def test_rows_for_each_answer_stay_together(near_duplicates: bool) -> None:
    rows = conversations(Random(4), 200)
    split = split_records(
        iter(rows), request_for(rows, test_size=120), near_duplicates=near_duplicates
    )
    assert len(split.test) == 120 and len({*split.clusters}) == 200
    names = [
        {rows[row].source for row in part} for part in (split.train, split.validation, split.test)
    ]
    assert not (names[0] & names[1] or names[0] & names[2] or names[1] & names[2])


def test_an_opening_that_a_fifth_of_the_rows_has_ties_nothing() -> None:
    rng = Random(5)
    texts = [" ".join(rng.choices(WORDS, k=8)) for _ in range(150)]
    rows = [chat("hi", "How can I help?", text, text[::-1]) for text in texts]
    split: Split = split_records(iter(rows), request_for(rows))
    assert len({*split.clusters}) == 150
    assert [f.message for f in split.findings] == [
        "150 rows start with the same turns as a fifth of the data; of these, only equal rows are "
        "kept together"
    ]
