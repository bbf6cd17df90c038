"""Answers that repeat themselves are found; lists, tables, code and refrains are not."""

from __future__ import annotations

import pytest

from tunesmith.records import Completion
from tunesmith_plugins.checks.rows.repetition import find_repetition
from tunesmith_plugins.checks.rows.review import review
from tunesmith_plugins.checks.rows.row import read_row

LOOP = "Thank you for contacting us about your order today. " * 6
NAMES = ("Ann", "Bob", "Carla", "Dario", "Eve", "Farid", "Gina", "Hugo")


def find(answer: str) -> str | None:
    row = read_row(Completion(source="s", prompt="p", completion=answer))
    assert row is not None
    return find_repetition(row)


@pytest.mark.parametrize(
    "answer",
    [
        LOOP,
        "First, we look at the account. " + LOOP,
        "I am not sure if I can do this but I will try it. " * 4,
        "我们非常感谢您今天联系我们的客户服务团队。" * 5,
    ],
)
def test_repetition_is_found(answer: str) -> None:
    assert find(answer)


@pytest.mark.parametrize(
    "answer",
    [
        "Thank you. " * 3,
        "\n".join(f"{n}. {name} lives in house number {n}" for n, name in enumerate(NAMES)),
        "| name | age | city |\n|---|---|---|\n" + "".join(f"| {n} | 3 | Rome |\n" for n in NAMES),
        "\n".join(f"for i in range({n}):\n    print(items[i], '{n}')" for n in NAMES),
        str([{"name": name, "age": n, "city": "Rome"} for n, name in enumerate(NAMES)]),
        "We loaded the barrels and hoisted the sail,\nthe gulls were awake in the morning gale.\n"
        "Oh row, brother, row us back home to the sea.\nThe captain was old and his coat was gray,"
        "\nhe counted the islands along the bay.\nOh row, brother, row us back home to the sea.\n"
        "At midnight the lanterns went out one by one,\nwe sang of the harbor, the bread and the "
        "sun.\nOh row, brother, row us back home to the sea.\n",
    ],
    ids=["short", "list", "table", "code", "json", "refrain"],
)
def test_texts_with_a_pattern_are_no_repetition(answer: str) -> None:
    assert find(answer) is None


def test_the_check_counts_rows_and_names_the_words() -> None:
    rows = [
        Completion(source=f"f:{n}", prompt=f"question {n}", completion=LOOP if n == 3 else f"a {n}")
        for n in range(40)
    ]
    (finding,) = [found for found in review(rows) if "again and again" in found.message]
    assert finding.level == "warning" and finding.count == 1
    assert finding.examples[0].startswith('f:3 "6 times: ')
