"""Test records that a training record gives away are found, and nothing else."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from random import Random
from typing import Any

import pytest
from pictures import Picture
from splitting import split_prompts

from tunesmith.records import Chat, Completion, Message, Record, Text, TextPart
from tunesmith_plugins.checks.leaks.find_leaks import (
    find_duplicates,
    find_shared_groups,
    find_shared_turns,
)

WORDS = [f"{first}{second}" for first in "abcdefghij" for second in ("ler", "mont", "stic", "urn")]


def records(texts: Sequence[str], name: str = "a") -> list[Record]:
    return [
        Completion(source=f"{name}:{line}", prompt=text, completion="yes")
        for line, text in enumerate(texts, start=1)
    ]


def sentence(rng: Random, words: int = 20) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def leaks(train: Sequence[str], test: Sequence[str]) -> list[tuple[int, int, str]]:
    found = find_duplicates(records(train), records(test))
    return sorted((leak.row, leak.known, leak.kind) for leak in found)


def test_rows_with_media_are_duplicates_only_if_the_media_are_the_same() -> None:
    """Their texts hold a name of the content, such as a hash, which looks like a value."""
    rng = Random(2)
    question = TextPart("Which of the ten digits does the hand in this picture show to us?")

    def ask(pictures: Sequence[str]) -> list[Record]:
        users = (Message("user", (question, Picture(name))) for name in pictures)
        return [Chat(source="p", messages=(u, Message("assistant", "2"))) for u in users]

    names = [f"{rng.getrandbits(64):016x}" for _ in range(40)]
    found = [*find_duplicates(ask(names[:30]), ask([names[3], *names[30:]]))]
    assert [(leak.row, leak.known, leak.kind) for leak in found] == [(0, 3, "exact")]


def test_copies_and_near_copies_are_found() -> None:
    rng = Random(1)
    train = [sentence(rng) for _ in range(200)]
    test = [sentence(rng) for _ in range(50)]
    assert leaks(train, test) == []
    test[3] = "  " + train[7].upper().replace(" ", ", ") + "!"
    changed = train[9].split()
    changed[5] = "different"
    test[4] = " ".join(changed)
    assert leaks(train, test) == [(3, 7, "exact"), (4, 9, "near")]


def test_a_clean_split_has_no_leaks() -> None:
    rng = Random(6)
    rows = [sentence(rng, 12) for _ in range(100)]
    rows += [row.title() for row in rows[:40]]
    result = split_prompts(rows, test_size=0.3, seed=0)
    assert leaks([rows[i] for i in result.train], [rows[i] for i in result.test]) == []


class LazyRecords(Sequence[Any]):
    """Records that are made when they are read, as those of a file on disk are."""

    def __init__(self, texts: Sequence[str]) -> None:
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: Any) -> Any:
        assert isinstance(index, int), "a slice would copy records"
        if index >= len(self):
            raise IndexError
        return records([self.texts[index]])[0]

    def __iter__(self) -> Iterator[Any]:
        for index in range(len(self)):
            yield self[index]


def test_records_may_be_made_when_they_are_read() -> None:
    rng = Random(2)
    texts = [sentence(rng) for _ in range(30)]
    found = find_duplicates(LazyRecords(texts), LazyRecords([texts[4]]))
    assert [leak.known for leak in found] == [4]


NAMES = ("Karla", "Petros", "Ingrid", "Malik", "Yuna", "Olaf", "Bela", "Noor")


def problem(rng: Random, words: str) -> str:
    """Return a task with two names and three numbers; the words decide what it is about."""
    one, other = rng.sample(NAMES, 2)
    first, second, *_ = words.split()
    return (
        f"{one} has {rng.randrange(90)} {first} and gives {rng.randrange(90)} of them to {other}, "
        f"who {words} each day for {rng.randrange(90)} weeks. How many {second} has {one}?"
    )


def test_rows_that_differ_in_values_are_of_one_template() -> None:
    """Names and numbers are up to a third of the words, so few of them are near duplicates."""
    rng = Random(3)
    topics = [" ".join(rng.sample(WORDS, 9)) for _ in range(400)]
    train = [problem(rng, topic) for topic in topics[:300]]
    test = [problem(rng, topic) for topic in (*topics[300:], *topics[:60])]
    found = leaks(train, test)
    assert [(row, known) for row, known, _ in found] == [(100 + n, n) for n in range(60)]
    assert {kind for _, _, kind in found} == {"template"}


def test_short_questions_with_another_end_are_of_no_template() -> None:
    """They ask for something else; in longer ones, or before the end, it is another value."""

    def found(train: str, test: str) -> list[str]:
        frames = [f"So how do I now make a really nice {word} on my own?" for word in WORDS[:5]]
        texts = [train, *frames]
        known = [
            Completion(source="t", prompt=p, completion=f"{p} {n}") for n, p in enumerate(texts)
        ]
        asked = [Completion(source="h", prompt=test, completion="something else")]
        return [leak.kind for leak in find_duplicates(known, asked) if leak.known == 0]

    assert found("How do I make a cake?", "How do I make a kite?") == []
    assert found("How do I make a cake now?", "How do I make a kite now?") == ["template"]
    long = "So how do I now make a {}?"
    assert found(long.format("cake"), long.format("kite")) != []


def labeled(texts: Sequence[tuple[str, str]]) -> list[Record]:
    return [Completion(source="a:1", prompt=text, completion=label) for text, label in texts]


def test_rows_with_labels_are_duplicates_if_their_labels_are_equal() -> None:
    verbs = {"close": "close_account", "open": "open_account", "freeze": "freeze_account"}
    train = [
        (f"how do I {verb} my account in {city}", label)
        for verb, label in verbs.items()
        for city in ("Berlin", "Paris", "Rome", "Oslo")
    ] + [("the old bicycle was stolen behind the main station yesterday", "theft")]
    test = labeled(
        [
            ("how do I freeze my account in Tirana", "freeze_account"),
            ("how do I rename my account in Berlin", "rename_account"),
            ("How do I close my account in Berlin?", "complaint"),
            ("the old bicycle was sold behind the main station yesterday", "sale"),
        ]
    )
    found = {leak.row: leak.kind for leak in find_duplicates(labeled(train), test)}
    assert found == {0: "template", 2: "exact"}


def test_prompts_that_differ_in_a_symbol_are_not_equal() -> None:
    pairs = [
        ("What is 12 + 7?", "What is 12 - 7?"),
        ("Is C a language?", "Is C++ a language?"),
        ("when is a == b true", "when is a != b true"),
        ("all went well :)", "all went well :("),
    ]
    for train, test in pairs:
        assert "exact" not in {kind for _, _, kind in leaks([train], [test])}
    assert leaks(["What is 12 + 7?"], ["what is 12+7"]) == [(0, 0, "exact")]
    sums = [f"What is {a} {sign} {b}?" for a in range(9) for b in range(9) for sign in "+-*"]
    assert {kind for _, _, kind in leaks(sums[::2], sums[1::2])} == {"template"}


def talk(*texts: str) -> Chat:
    return Chat(
        source="a:1",
        messages=tuple(
            Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts)
        ),
    )


def shared(train: Sequence[Record], test: Sequence[Record]) -> list[tuple[int, int, str]]:
    return [(leak.row, leak.known, leak.kind) for leak in find_shared_turns(train, test)]


def test_rows_of_one_conversation_are_found() -> None:
    train = [
        talk("a new one", "yes"),
        talk("where is it", "on its way", "and now", "still", "why", "snow"),
    ]
    assert shared(train, [talk("Where is it?", "here")]) == [(0, 1, "inside")]
    assert shared(train, [talk("where is it", "on its way", "and now?", "x")]) == [(0, 1, "inside")]
    assert shared(train, [talk("a new one", "yes", "so", "x")]) == [(0, 0, "continued")]
    assert shared(train, [talk("a new one", "no", "so", "x"), talk("why", "snow")]) == []
    asked = Completion(source="b:1", prompt="where is it", completion="gone")
    assert shared(train, [asked]) == [(0, 1, "inside")]
    assert shared([asked], [asked]) == shared([], train) == shared(train, []) == []


def test_a_text_that_begins_a_longer_one_is_found() -> None:
    short = Text(source="a:1", text="Human: hello\nAssistant: good day")
    long = Text(source="a:2", text=f"{short.text}\nHuman: what is new")
    assert shared([long], [short]) == [(0, 0, "inside")]
    assert shared([short], [long]) == [(0, 0, "continued")]
    assert shared([long], [Text(source="b", text="Human: hello\nAssistant: no")]) == []


def test_an_opening_that_all_rows_have_is_no_leak() -> None:
    rows = [talk("hi", "How can I help?", f"question {n}", f"answer {n}") for n in range(60)]
    assert shared(rows[:40], rows[40:]) == []


def test_groups_are_shared() -> None:
    def grouped(*groups: str | None) -> list[Record]:
        return [Text(source="a:1", text=f"t{n}", group=g) for n, g in enumerate(groups)]

    train, test = grouped("x", None, "y", "x"), grouped(None, "y", "z", "x")
    found = [(leak.row, leak.known) for leak in find_shared_groups(train, test)]
    assert found == [(1, 2), (3, 0)]
    assert not list(find_shared_groups(train, grouped(None, None)))


@pytest.mark.parametrize("test", [[], ["one row"]])
def test_empty_parts_have_no_leaks(test: list[str]) -> None:
    assert leaks([], test) == leaks(["another"], test) == []
