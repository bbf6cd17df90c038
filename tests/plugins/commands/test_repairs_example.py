"""The rows of the example ``repairs`` keep the promises of its README."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import tunesmith_plugins.commands.starter as starter
from tunesmith_plugins.commands.starter.repairs.generate import (
    TEAMS,
    TEST,
    TRAIN,
    Words,
    generate_rows,
)

FOLDER = Path(starter.__file__).parent / "repairs"
PARTS = ("train", "test")


def read_rows(part: str) -> list[dict[str, str]]:
    text = (FOLDER / f"{part}.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def test_every_answer_is_an_order_in_house_style() -> None:
    forms = {
        "team": "|".join(TEAMS),
        "unit": "U0[1-6]-[A-D]",
        "slot": "(MON|TUE|WED|THU|FRI)-(AM|PM)",
        "contact": r"[A-Z][a-z]+, [A-Z]\.",
    }
    for row in (row for part in PARTS for row in read_rows(part)):
        order = json.loads(row["completion"])
        assert list(order) == list(forms)
        for key, form in forms.items():
            assert re.fullmatch(form, order[key]), (key, row)


def test_an_order_says_what_the_message_says() -> None:
    """Read the messages again, with patterns of their own."""
    floors = {"first": 1, "second": 2, "third": 3, "fourth": 4, "fifth": 5, "sixth": 6}
    for row in (row for part in PARTS for row in read_rows(part)):
        order, prompt = json.loads(row["completion"]), row["prompt"]
        surname, initial = order["contact"].rstrip(".").split(", ")
        assert re.search(rf"\b{initial}[a-z]+ {surname}\b", prompt), row
        assert re.search(rf"\b{order['slot'][:3]}", prompt, re.IGNORECASE), row
        found = re.search(r"\b([1-6]) ?([A-Da-d])\b(?! floor)", prompt)
        if found:
            floor, door = int(found[1]), found[2]
        else:
            named = re.search(rf"\b({'|'.join(floors)}|[1-6](?:st|nd|rd|th)) floor\b", prompt)
            doored = re.search(r"\b(?:door|flat) ([A-D])\b", prompt)
            assert named and doored, row
            floor = floors.get(named[1]) or int(named[1][0])
            door = doored[1]
        assert order["unit"] == f"U0{floor}-{door.upper()}", row


def words_of(rows: list[dict[str, str]]) -> str:
    return "\n".join(row["prompt"].lower() for row in rows)


def test_no_problem_and_no_name_of_the_test_rows_is_in_the_training_rows() -> None:
    train = words_of(read_rows("train"))
    problems = [problem for known in TEST.problems.values() for problem in known]
    for text in problems:
        assert text.lower() not in train
    names = {name.lower() for name in (*TEST.first_names, *TEST.surnames)}
    assert not names & {*re.findall(r"\w+", train)}
    test = words_of(read_rows("test"))
    assert sum(problem.lower() in test for problem in problems) >= len(problems) - 2


def test_rows_are_distinct_and_teams_equally_frequent() -> None:
    rows = generate_rows(TRAIN, 60, random.Random(3))
    assert rows == generate_rows(TRAIN, 60, random.Random(3))
    assert rows != generate_rows(TRAIN, 60, random.Random(4))
    assert len({row["prompt"] for row in rows}) == 60
    teams = [json.loads(row["completion"])["team"] for row in rows]
    assert {teams.count(team) for team in TEAMS} == {10}


def test_other_words_can_be_used() -> None:
    words = Words({"PLB": ("the tap drips",)}, {"AM": ("morning",)}, ("Ada",), ("Byron",))
    rows = generate_rows(words, 1, random.Random(0))
    assert '"contact": "Byron, A."' in rows[0]["completion"]
    assert "tap drips" in rows[0]["prompt"]
