"""Facts that answers state and prompts do not: when the check reports them, and when not."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from baseline_rows import class_rows, object_rows
from tests.benchmarks.handbook import write_project

from tunesmith.contracts import Finding
from tunesmith.records import Completion, Message, Preference, Record, Text
from tunesmith_plugins.checks.knowledge import list_facts, review

Write = Callable[[int], tuple[str, str]]


def rows(write: Write, count: int = 100, start: int = 0) -> list[Completion]:
    numbered = [(n, *write(n)) for n in range(start, start + count)]
    return [Completion(source=f"f:{n}", prompt=p, completion=c) for n, p, c in numbered]


def fees(n: int) -> tuple[str, str]:
    return f"What is the fee for {'abcdefghij'[n % 10]}?", f"It is {100 + n} EUR."


def review_of(train: list[Completion], test: list[Completion] | None = None) -> list[Finding]:
    return [*review(train, test or [])]


def test_facts_that_training_answers_do_not_contain_are_counted() -> None:
    (found,) = review_of(rows(fees), rows(fees, 10, start=95))
    assert (found.level, found.where, found.count) == ("info", "data knowledge", 100)
    assert found.message.startswith("100 of 100 training answers (100 %) contain numbers")
    assert (
        "5 of 10 test answers (50 %) contain facts that no training answer contains"
        in found.message
    )
    assert found.examples == (
        'f:0 "What is the fee for a?": 100', 'f:1 "What is the fee for b?": 101'
    )  # fmt: skip
    assert "[baselines.documents]" in found.hint
    (found,) = review_of(rows(fees), rows(fees, 10))
    assert "test answers" not in found.message


def test_the_handbook_is_reported(tmp_path: Path) -> None:
    write_project(tmp_path, pages=8)
    lines = (tmp_path / "train.jsonl").read_text().splitlines()
    train = [Completion(source="t", **json.loads(line)) for line in lines]
    assert len(review_of(train)) == 1


@pytest.mark.parametrize(
    "write",
    [
        lambda n: (f"What is {n} + 1{n}?", f"It is {n + 100}."),
        lambda n: (f"Twice as many as {n}, in dozens?", f"{n / 6:.2f}"),
        lambda n: (f"Ticket {n + 1000}, please", f"Ticket {n + 1000} is open."),
        lambda n: (f"Card {n + 12345} is lost", f"I blocked {n + 12345:,}."),
        lambda n: (f"flat {n % 9}B", json.dumps({"unit": f"U0{n % 9}-{n}"})),
        lambda n: ("Where is it?", f"level 1{n % 5}"),
        lambda n: ("Who?", "It is Anna."),
        lambda n: ("Write a list", f"Step 1: {f'x {n + 100}' if n % 5 == 0 else 'x'}"),
    ],
    ids=["sum", "words", "copy", "commas", "json", "few", "none", "rare"],
)  # fmt: skip
def test_other_tasks_are_not_reported(write: Write) -> None:
    assert review_of(rows(write), rows(write, 20, start=200)) == []


def test_labels_and_fields_are_not_reported() -> None:
    for train in (class_rows(60, 1), object_rows(60, 1)):
        assert review_of(train, train) == []
    assert review_of([]) == []


def test_other_kinds_of_records() -> None:
    texts: list[Record] = [Text(source="t", text=f"{n} EUR") for n in range(100)]
    strange: list[Record] = [Record(source="r")]
    assert [*review([*texts, *strange], strange)] == []
    pairs: list[Record] = [
        Preference(
            source="p", prompt=(Message("user", "fee?"),), chosen=f"1{n:02} EUR", rejected="free"
        )
        for n in range(40)
    ]
    assert len([*review(pairs, [])]) == 1


def test_facts_are_numbers_codes_addresses_and_citations() -> None:
    text = "See § 4 and Section 3b: 1,200.50 EUR, AB-123, a 7, www at https://x.org/a) or me@x.org."
    assert list_facts(text) == [
        "§ 4", "Section 3b", "1,200.50", "123", "https://x.org/a", "@x.org",
    ]  # fmt: skip


def test_hostile_answers_take_no_time() -> None:
    rng = random.Random(1)
    for unit in ("1", "a", "1-", "@a", "http://", "section "):
        assert len(list_facts(unit * (200_000 // len(unit)) + rng.choice("ab"))) < 50_000
