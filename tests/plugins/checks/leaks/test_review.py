"""Each kind of leak between two parts is a finding, with the rows that it makes worthless."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.contracts import Dataset
from tunesmith.data.units import RecordsByUnit
from tunesmith.records import Chat, Completion, Message, Record, Role
from tunesmith.testing.ngram import NGRAM
from tunesmith_plugins.checks import leaks
from tunesmith_plugins.checks.leaks import review as review_module
from tunesmith_plugins.checks.leaks.review import review
from tunesmith_plugins.splitters.grouped import GROUPED

CLEAN = [
    "why does the lamp in the hall flicker at night",
    "an entirely different question about trains",
    "tell me how bread is baked without any yeast",
]


def rows(texts: Sequence[str], name: str, group: str | None = None) -> list[Record]:
    return [
        Completion(source=f"{name}:{line}", prompt=text, completion=f"{name} {line}", group=group)
        for line, text in enumerate(texts, start=1)
    ]


def distinct(rng: Random, count: int) -> list[str]:
    """Return texts of random letters, none like another."""
    letters = "abcdefghijklmnopqrstuvwxyz"
    return [" ".join("".join(rng.choices(letters, k=6)) for _ in range(8)) for _ in range(count)]


def test_exact_and_near_leaks_are_findings_of_their_own() -> None:
    train = rows(["how do I reset my password", "where is my parcel", "cancel the order"], "a")
    test = rows([CLEAN[0], "Where is my parcel?", "how do I reset my passwort"], "b")
    exact, near = review(train, [], test)
    assert (exact.level, exact.where, exact.count) == ("error", "data leaks", 1)
    assert exact.message == (
        "1 of 3 test rows (33 %) have the same prompt as a training row (ignoring case and "
        "punctuation)"
    )
    assert exact.examples == ('b:2 (test) "Where is my parcel?" and a:2 (training)',)
    assert (near.level, near.test_rows, exact.test_rows) == ("warning", (2,), (1,))
    assert near.message.endswith(
        "near-duplicates of a training row (Jaccard similarity of character 5-grams at least 0.7, "
        "or 0.5 with that of words at least 0.75)"
    )
    assert near.examples == (
        'b:3 (test) "how do I reset my passwort" and a:1 (training) '
        '"how do I reset my password", 5-grams 0.89, words 0.71',
    )
    assert review(train, [], test[:1]) == []


def test_rows_of_one_conversation_are_findings() -> None:
    def talk(turns: int, source: str) -> Record:
        texts = ["where is my parcel", "on its way", "and now", "still there", "why", "snow"]
        roles: list[Role] = ["user", "assistant"] * 3
        messages = tuple(map(Message, roles[:turns], texts[:turns]))
        return Chat(source=source, messages=messages)

    (inside,) = review([talk(6, "a:1")], [], [talk(2, "b:1")])
    assert (inside.level, inside.test_rows) == ("error", (0,))
    assert inside.message == (
        "1 of 1 test rows (100 %) are the start of a longer training row that contains the "
        "answer to their prompt"
    )
    (continued,) = review([talk(2, "a:1")], [], [talk(6, "b:1")])
    assert (continued.level, continued.test_rows) == ("warning", (0,))
    assert "share the earlier turns of their conversation with a training row" in continued.message


def test_validation_rows_are_compared_with_both_parts() -> None:
    train, validation = rows(CLEAN[:2], "a"), rows([CLEAN[1], CLEAN[2]], "b")
    test = rows([CLEAN[2].upper(), "nothing of the kind was seen before"], "c")
    found = review(train, validation, test)
    assert [(f.level, f.count, f.test_rows) for f in found] == [("warning", 1, ())] * 2
    assert "validation rows (50 %) have the same prompt as a training row" in found[0].message
    assert "have the same prompt as a validation row" in found[1].message


class Counted(list[Record]):
    """Records that count how often they are read."""

    reads = 0

    def __iter__(self) -> Iterator[Record]:
        self.reads += 1
        return super().__iter__()


def test_training_rows_are_read_once_for_validation_and_test_rows() -> None:
    texts = distinct(Random(4), 40)
    train, validation, test = (
        Counted(rows(part, name))
        for part, name in (
            (texts[:20], "a"),
            ([*texts[20:30], *texts[:2]], "b"),
            ([*texts[30:], texts[3]], "c"),
        )
    )
    found = review(train, validation, test)
    assert [(f.message[:7], f.examples[-1]) for f in found] == [
        ("1 of 11", f'c:11 (test) "{texts[3]}" and a:4 (training)'),
        ("2 of 12", f'b:12 (validation) "{texts[1]}" and a:2 (training)'),
    ]
    reads, train.reads = train.reads, 0
    review(train, [], test)
    assert train.reads == reads


def test_templates_of_many_rows_that_were_split_are_not_looked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(review_module, "MAX_TEMPLATE_ROWS", 19)
    texts = distinct(Random(4), 30)
    train, test = rows(texts[:20], "a"), rows([*texts[20:], texts[3].upper()], "b")
    note, exact = review(train, [], test, given=())
    assert note == review_module.NO_TEMPLATES and exact.count == 1
    assert note not in review(train, [], test)
    assert note not in review(train[1:], [], test, given=())


def test_a_few_leaks_are_no_reason_against_the_score() -> None:
    texts = distinct(Random(4), 200)
    test = rows([*texts[100:], *texts[:2]], "b")
    (finding,) = review(rows(texts[:100], "a"), [], test)
    assert (finding.level, finding.count) == ("warning", 2)
    (finding,) = review(rows(texts[:100], "a"), [], [*test, *rows(texts[2:3], "c")])
    assert (finding.level, finding.count) == ("error", 3)
    assert len(finding.examples) == 3 and finding.test_rows == (100, 101, 102)


def test_leaks_of_our_own_split_are_no_errors() -> None:
    """A prompt that returns over time is in several parts of a split by time."""
    records = rows([*CLEAN, CLEAN[0]], "a")
    for dataset, level in (
        (Dataset(train=[*records]), "warning"),
        (Dataset(train=records[:3], test=records[3:]), "error"),
    ):
        (finding,) = leaks.review_data(dataset, records[:3], (), records[3:])
        assert finding.level == level


def test_a_validation_file_does_not_make_the_test_rows_given() -> None:
    records, validation = (
        rows([*CLEAN, CLEAN[0]], "a"),
        rows(["why are there tides in the sea"], "b"),
    )
    dataset = Dataset(train=[*records], validation=validation)
    (finding,) = leaks.review_data(dataset, records[:3], validation, records[3:])
    assert (
        finding.level == "warning" and "test rows (100 %) have the same prompt" in finding.message
    )


@pytest.mark.parametrize(
    ("given", "levels"),
    [
        ((), ["info", "info", "info"]),
        (("validation",), ["info", "warning", "warning"]),
        (("test",), ["warning", "info", "warning"]),
    ],
)
def test_a_pair_of_parts_is_given_if_one_of_both_is(
    given: tuple[str, ...], levels: list[str]
) -> None:
    """Templates are warnings between given parts, and an info in a split of tunesmith."""
    text = "what is the state of my parcel number {} of the {}rd of may"
    rng = Random(5)
    parts = [rows([*distinct(rng, 20), text.format(n, n)], str(n)) for n in (113, 4023, 50033)]
    found = [f for f in review(*parts, given=given) if "with different values" in f.message]
    pairs = [
        "test rows.* a training row",
        "validation rows.* a training row",
        "test.* a validation row",
    ]
    assert all(re.search(pair, f.message) for pair, f in zip(pairs, found, strict=True))
    assert [f.level for f in found] == levels


def test_a_group_in_both_parts_is_an_error() -> None:
    train = [*rows(CLEAN[:1], "a", "ann"), *rows(CLEAN[1:2], "a", "bob")]
    (finding,) = review(train, [], rows(CLEAN[2:], "b", "bob"))
    assert (finding.level, finding.test_rows) == ("error", (0,))
    assert "belong to a group that also contains training rows" in finding.message
    assert "a:1 (training)" in finding.examples[0]


@pytest.mark.parametrize(
    ("given", "by_splitter", "by_technique", "level"),
    [
        (False, False, False, "warning"),
        (False, True, False, "info"),
        (False, False, True, "info"),
        (True, False, False, "error"),
        (True, True, False, "error"),  # the splitter did not make these splits
        (True, False, True, "info"),
    ],
)
def test_groups_are_divided_on_purpose_if_an_offer_declares_it(
    given: bool, by_splitter: bool, by_technique: bool, level: str
) -> None:
    """As for a model per user: all test rows are of a group with training rows."""
    train = [*rows(CLEAN[:1], "a", "ann"), *rows(CLEAN[1:2], "a", "bob")]
    test = rows(distinct(Random(0), 10), "b", "bob")
    dataset = Dataset(train=train, test=test) if given else Dataset(train=[*train, *test])
    declared = SimpleNamespace(
        split=SimpleNamespace(offer=replace(GROUPED, divides_groups=by_splitter)),
        technique=SimpleNamespace(offer=replace(NGRAM, divides_groups=by_technique)),
    )
    plan: Any = declared
    (finding,) = leaks.review_data(dataset, train, (), test, plan)
    assert (finding.level, finding.count) == (level, 10)
    assert finding.test_rows == (() if level == "info" else (*range(10),))
    assert ("gets its own model" in finding.hint) == (level == "info")
    (unknown,) = leaks.review_data(dataset, train, (), test)
    assert unknown.level == ("error" if given else "warning"), "without a run file"


def test_answers_in_prompts_are_an_error_unless_that_is_the_task() -> None:
    def asked(count: int, answered: int) -> list[Record]:
        texts = distinct(Random(count), count)
        return [
            Completion(
                source=f"a:{n}",
                prompt=f"{text} answer: {n}x" if n < answered else text,
                completion=f"{n}x",
            )
            for n, text in enumerate(texts)
        ]

    for given in ((), ("test",)):  # it is no leak between parts: who split them is no matter
        (finding,) = review(asked(90, 3), [], asked(50, 2), given=given)
        assert (finding.level, finding.test_rows) == ("error", (0, 1))
    assert review(asked(90, 30), [], asked(50, 2)) == []


def test_templates_of_many_rows_are_the_task() -> None:
    def orders(first: int, last: int, name: str) -> list[Record]:
        rng = Random(first)
        words = ("parcel", "letter", "refund", "voucher", "receipt", "invoice")
        return rows(
            [
                f"what is the state of my {rng.choice(words)} number {n} of {rng.randrange(99)}"
                for n in range(first, last)
            ],
            name,
        )

    found = review(orders(0, 60, "a"), [], orders(60, 90, "b"))
    template = next(f for f in found if "with different values" in f.message)
    assert (template.level, template.test_rows) == ("info", ())
    assert "values is the task" in template.hint
    few = rows([*CLEAN, "what is the state of my parcel number 70 of 3"], "b")
    for given, level, known in ((("test",), "warning", (3,)), ((), "info", ())):
        found = review(orders(0, 60, "a"), [], [*few, *few[:3]], given=given)
        template = next(f for f in found if "with different values" in f.message)
        assert (template.level, template.test_rows) == (level, known)


@pytest.mark.parametrize("test", [[], CLEAN])
def test_empty_parts_have_no_leaks(test: list[str]) -> None:
    assert review([], [], rows(test, "b")) == []


def test_personal_data_in_examples_is_masked() -> None:
    text = "please send it to jane.doe@example.com or charge 4111 1111 1111 1111"
    (finding,) = review(rows([text], "a"), [], rows([text], "b"))
    assert finding.examples == (
        'b:1 (test) "please send it to j…@example.com or charge 41…11" and a:1 (training)',
    )


def test_a_group_of_two_parts_is_found_where_its_rows_are_of_one_unit_with_others() -> None:
    """A unit of several groups, or of rows without one, has another name than the group."""

    def in_one_unit(records: Sequence[Record]) -> RecordsByUnit:
        return RecordsByUnit(records, lambda records: [0] * len(records))

    train = [*rows(CLEAN[:1], "a", "customer 7"), *rows(CLEAN[1:2], "b", "customer 9")]
    test = in_one_unit(
        [*rows(CLEAN[2:], "c", "customer 7"), *rows(["where is my parcel"], "d", "customer 8")]
    )
    assert {record.group for record in test} == {"like c:1"}
    for found in (review(train, [], test), review([], in_one_unit(train), test)):
        (shared,) = [finding for finding in found if "belong to a group" in finding.message]
        assert shared.message.startswith("1 of 2 test rows (50 %)")
