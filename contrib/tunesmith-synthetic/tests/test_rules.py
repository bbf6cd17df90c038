"""The ``rules`` generator: prompts change, answers follow by construction."""

from __future__ import annotations

import json
import random
import re
import string
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import BaselineTask
from tunesmith.generators import GeneratedRow, GeneratorTask
from tunesmith.records import Chat, Completion, Message, Record
from tunesmith_synthetic.generators.rules import Rules, RulesOptions, edit, find_slots

TEXTS = [
    "I ordered a replacement yesterday, but nothing arrived before Thursday morning",
    "Why was 12.50 charged for order 8841 twice?",
    "please cancel",
    "ÄRGERLICH: Überweisung nach Österreich fehlgeschlagen!",
    "  two   spaces  everywhere ",
    "",
]


def propose(rows: list[Record], folder: Path, **options: Any) -> list[GeneratedRow]:
    """Return the rows that the rules propose."""
    learned: Any = BaselineTask(train=rows, base=lambda: None, seed=1)  # type: ignore[arg-type,return-value]
    task = GeneratorTask(task=learned, count=1000, folder=folder, solve=lambda name, rows: [])
    found = Rules(RulesOptions(**options)).generate(task)
    return [row for row in found if isinstance(row, GeneratedRow)]


def completion(prompt: str, answer: str) -> Completion:
    return Completion(source="x:1", prompt=prompt, completion=answer)


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("text", TEXTS)
def test_punctuation_and_casing_keep_all_letters_in_order(text: str, seed: int) -> None:
    for rule in ("punctuation", "casing"):
        edited: Any = edit(completion(text, "label"), rule, random.Random(seed), {})  # type: ignore[arg-type]
        if edited is not None:
            letters = [re.sub(r"[\W_]", "", t).lower() for t in (text, edited.prompt)]
            assert letters[0] == letters[1] and edited.completion == "label"


@pytest.mark.parametrize("seed", range(50))
def test_typos_keep_numbers_short_words_and_words_of_the_answer(seed: int) -> None:
    prompt = "Send 12345 euros to Margarete before Thursday, at no cost"
    edited: Any = edit(completion(prompt, "Margarete 12345"), "typos", random.Random(seed), {})
    assert edited.completion == "Margarete 12345" and edited.prompt != prompt
    for word in ("12345", "to", "Margarete", "at", "no", "cost"):
        assert re.search(rf"\b{word}\b", edited.prompt)
    changed = [b for a, b in zip(prompt.split(), edited.prompt.split(), strict=True) if a != b]
    assert 1 <= len(changed) <= 2


def test_a_slot_of_a_list_changes_in_prompt_and_answer(tmp_path: Path) -> None:
    slots = {"city": ["Rome", "Oslo", "Lima"]}
    rows: list[Record] = [completion("A flight to Rome at 9", '{"to": "Rome", "at": 9}')]
    (found,) = propose(rows, tmp_path, rules=["slots"], slots=slots)
    record: Any = found.record
    city = json.loads(record.completion)["to"]
    assert city in ("Oslo", "Lima") and record.prompt == f"A flight to {city} at 9"


def test_slots_come_from_the_rows(tmp_path: Path) -> None:
    """Values that JSON answers copy are recombined, and each answer is still right."""
    cities, days = ("Rome", "Oslo", "Lima"), ("Monday", "Friday")
    rows: list[Record] = [
        completion(
            f"To {city} on {day}, please", json.dumps({"to": city, "day": day, "kind": "flight"})
        )
        for city, day in zip(cities, [*days, days[0]], strict=True)
    ]
    assert find_slots(rows) == {"to": [*cities], "day": [*days]}
    found = propose(rows, tmp_path, rules=["slots"], rounds=10)
    assert len(found) == 30
    for row in found:
        record: Any = row.record
        answer = json.loads(record.completion)
        assert record.prompt == f"To {answer['to']} on {answer['day']}, please"
        assert answer["to"] in cities and answer["day"] in days and answer["kind"] == "flight"


def test_a_value_that_occurs_twice_is_not_swapped(tmp_path: Path) -> None:
    """It could mean two things."""
    slots = {"city": ["Rome", "Oslo"]}
    rows: list[Record] = [completion("From Rome to Rome", "x"), completion("Romeo", "x")]
    assert propose(rows, tmp_path, rules=["slots"], slots=slots) == []


def test_only_the_last_question_of_a_chat_changes(tmp_path: Path) -> None:
    turns = [("system", "Be brief."), ("user", "Something else entirely"), ("assistant", "Yes"),
             ("user", "Another question altogether"), ("assistant", "No")]  # fmt: skip
    chat = Chat(source="x", messages=tuple(Message(role, text) for role, text in turns))  # type: ignore[arg-type]
    found = propose([chat], tmp_path, rules=["typos", "punctuation"])
    assert len(found) == 2
    for row in found:
        record: Any = row.record
        same = [a == b for a, b in zip(record.messages, chat.messages, strict=True)]
        assert same == [True, True, True, False, True]


def test_rounds_give_different_rows(tmp_path: Path) -> None:
    rows: list[Record] = [completion(TEXTS[0], "x")]
    found = propose(rows, tmp_path, rules=["typos"], rounds=20)
    assert len({row.record.prompt for row in found}) > 10  # type: ignore[attr-defined]
    assert all(row.parent == 0 and row.details == {"rule": "typos"} for row in found)


def test_a_typo_is_one_edit_of_a_word() -> None:
    word = string.ascii_lowercase
    for seed in range(200):
        edited: Any = edit(completion(word, "x"), "typos", random.Random(seed), {})
        assert abs(len(edited.prompt) - len(word)) <= 1
        assert edited.prompt[0] == "a" and edited.prompt[-1] == "z"


@pytest.mark.parametrize("seed", range(30))
def test_no_mark_divides_a_phrase_of_the_answer(seed: int) -> None:
    """An answer that copies a span would no longer be right."""
    record = completion("Fly me to New York City please", '{"to": "New York City"}')
    edited: Any = edit(record, "punctuation", random.Random(seed), {})
    assert edited.prompt != record.prompt and "New York City" in edited.prompt


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [("Fly to Rome", '{"to": "rome"}'), ("Fly to Rome, rome I say", "x")],
)
def test_a_value_in_another_case_is_not_swapped(prompt: str, answer: str) -> None:
    slots = {"city": ["Rome", "Oslo"]}
    assert edit(completion(prompt, answer), "slots", random.Random(0), slots) is None


def test_a_value_of_an_earlier_turn_is_not_swapped() -> None:
    turns = [("system", "The user lives in Rome."), ("user", "A train to Rome"),
             ("assistant", "Stay")]  # fmt: skip
    for skipped in (0, 1):
        messages = tuple(Message(role, text) for role, text in turns[skipped:])  # type: ignore[arg-type]
        chat = Chat(source="x", messages=messages)
        found = edit(chat, "slots", random.Random(0), {"city": ["Rome", "Oslo"]})
        assert (found is None) == (skipped == 0)


def test_a_limit_does_not_prefer_the_start_of_the_file(tmp_path: Path) -> None:
    """Each row gets its first child before another one gets its second, in random order."""
    rows: list[Record] = [completion(f"{TEXTS[0]} number {n}", "x") for n in range(100)]
    learned: Any = BaselineTask(train=rows, base=lambda: None, seed=1)  # type: ignore[arg-type,return-value]
    task = GeneratorTask(task=learned, count=20, folder=tmp_path, solve=lambda name, rows: [])
    found = [*Rules(RulesOptions(rules=["typos", "casing"])).generate(task)]
    parents = [row.parent for row in found if isinstance(row, GeneratedRow)]
    assert len({*parents}) == 20 and max(parents) > 70  # type: ignore[type-var,operator]
