"""Lengths, answers in JSON, pairs and edge cases: faults are found, clean rows have none."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from clean_rows import clean_rows, label_rows, show

from tunesmith.contracts import Finding
from tunesmith.records import Chat, Completion, Message, Preference, Record, ToolCall
from tunesmith_plugins.checks.rows.check import Check
from tunesmith_plugins.checks.rows.edge_cases import EdgeCases
from tunesmith_plugins.checks.rows.json_answers import JsonAnswers, describe_difference, find_keys
from tunesmith_plugins.checks.rows.lengths import Lengths, is_empty
from tunesmith_plugins.checks.rows.preference_pairs import PreferencePairs
from tunesmith_plugins.checks.rows.review import CHECKS, review
from tunesmith_plugins.checks.rows.row import read_row
from tunesmith_plugins.commands import starter

EXAMPLE = Path(starter.__file__).parent / "helpdesk"


def found(rows: Sequence[Record], check: Callable[[], Check]) -> list[Finding]:
    return review(rows, checks=[check])


def every_sixteenth(
    rows: Sequence[Completion], change: Callable[[Completion], Completion]
) -> list[Completion]:
    """Return 800 rows of which 50 are changed."""
    return [change(row) if n % 16 == 0 else row for n, row in enumerate(rows)]


# ------------------------------------------------------------------------- lengths


def test_clean_rows_have_no_finding_about_lengths() -> None:
    assert found(clean_rows(), Lengths) == found(label_rows(), Lengths) == []


@pytest.mark.parametrize("field", ["prompt", "completion"])
def test_fifty_outliers_are_found(field: str) -> None:
    rows = every_sixteenth(clean_rows(), lambda r: replace(r, **{field: r.completion * 20}))
    (finding,) = found(rows, Lengths)
    name = "prompt" if field == "prompt" else "answer"
    assert finding.level == "warning"
    assert show(finding).startswith(
        f"50 of 800 training rows (6.2 %) have an unusually long {name}"
    )
    assert "rows.jsonl:1 " in show(finding) and " has 1,3" in show(finding)


@pytest.mark.parametrize("answer", ["N/A", "null", "...", " - ", "TODO", "#REF!", "?"])
def test_fifty_answers_that_say_nothing_are_found(answer: str) -> None:
    (finding,) = found(
        every_sixteenth(clean_rows(), lambda r: replace(r, completion=answer)), Lengths
    )
    assert show(finding).startswith(
        "50 of 800 answers (6.2 %) are placeholders for a missing value, such as"
    )
    assert ": rows.jsonl:1 " in show(finding)


def test_short_answers_say_something() -> None:
    assert not any(is_empty(text) for text in ("0", "No", "👍", "a", "{}", "+", "нет", "€"))


# ------------------------------------------------------------------------- JSON


def json_rows() -> list[Completion]:
    return [
        replace(row, completion=json.dumps({"answer": row.completion, "city": "Oslo"}))
        for row in clean_rows()
    ]


def test_clean_answers_have_no_finding_about_json() -> None:
    assert found(json_rows(), JsonAnswers) == found(clean_rows(), JsonAnswers) == []


@pytest.mark.parametrize("cut", ["{'answer': 1}", '{"answer": "cut', "Here it is: {}"])
def test_fifty_answers_that_are_no_json_are_found(cut: str) -> None:
    (finding,) = found(
        every_sixteenth(json_rows(), lambda r: replace(r, completion=cut)), JsonAnswers
    )
    assert finding.level == "warning"
    assert show(finding).startswith(
        "50 of 800 answers (6.2 %) are not JSON objects, but the others are: "
    )


def test_fifty_answers_with_other_keys_are_found() -> None:
    other = '{"answer": 1, "town": "Oslo"}'
    rows = every_sixteenth(json_rows(), lambda r: replace(r, completion=other))
    (finding,) = found(rows, JsonAnswers)
    assert show(finding) == (
        "50 of 800 JSON answers (6.2 %) have different keys from most others: rows.jsonl:1 lacks "
        "city and adds town; use the same keys in every answer"
    )


def test_answers_that_differ_by_design_have_no_finding() -> None:
    rows = [
        replace(row, completion=json.dumps({f"key {n % 3}": n}))
        for n, row in enumerate(clean_rows())
    ]
    assert found(rows, JsonAnswers) == []


def test_keys_of_an_answer() -> None:
    assert find_keys(' {"b": 1, "a": {"c": 2}}\n') == ("a", "b")
    assert find_keys("{}") == () and find_keys("[1]") is None
    assert describe_difference(("a",), ("a", "b")) == "lacks b"


# ------------------------------------------------------------------------- pairs


def pairs() -> list[Preference]:
    """Return pairs in which the chosen answer is the longer one in half of all."""
    refusal = "I do not know, sorry, please ask my colleague in the shop"
    long = " as you asked"
    return [
        Preference(
            source=row.source,
            prompt=(Message("user", row.prompt),),
            chosen=row.completion + long * (n % 2),
            rejected=refusal + 3 * long * (1 - n % 2),
        )
        for n, row in enumerate(clean_rows())
    ]


def changed_pairs(change: Callable[[Preference], Preference], step: int = 16) -> list[Preference]:
    return [change(pair) if n % step == 0 else pair for n, pair in enumerate(pairs())]


def test_clean_pairs_have_no_finding() -> None:
    assert found(pairs(), PreferencePairs) == found(clean_rows(), PreferencePairs) == []


def test_fifty_pairs_with_equal_answers_are_found() -> None:
    (finding,) = found(
        changed_pairs(lambda p: replace(p, rejected=f" {p.chosen.upper()} ")), PreferencePairs
    )
    assert finding.level == "warning"
    assert show(finding).startswith(
        "50 of 800 pairs (6.2 %) have the same chosen and rejected answer"
    )


def test_equal_answers_in_most_pairs_are_an_error() -> None:
    rows = changed_pairs(lambda p: replace(p, rejected=p.chosen), step=1)
    assert [finding.level for finding in found(rows, PreferencePairs)] == ["error"]


def test_fifty_pairs_with_swapped_sides_are_found() -> None:
    swapped = [
        replace(pair, chosen=pair.rejected, rejected=pair.chosen, source=f"more.jsonl:{n}")
        for n, pair in enumerate(pairs()[:50])
    ]
    (finding,) = found(pairs() + swapped, PreferencePairs)
    assert finding.level == "warning"
    assert show(finding).startswith("100 of 850 pairs (12 %) also occur with the chosen and ")


@pytest.mark.parametrize(("which", "side"), [("longer", "chosen"), ("shorter", "rejected")])
def test_a_bias_of_length_is_found_beyond_doubt_only(which: str, side: str) -> None:
    def longer(pair: Preference) -> Preference:
        return replace(pair, **{side: f"{getattr(pair, side)} {'and so on ' * 20}"})

    rows = list(map(longer, pairs()))
    (finding,) = found(rows, PreferencePairs)
    assert show(finding) == (
        f"the chosen answer is {which} in 800 of 800 pairs (100 %), 95 % "
        "confidence interval 100 to 100 %; balance the lengths; otherwise the model learns to "
        f"prefer {which} answers"
    )
    assert found(rows[:520] + pairs()[520:], PreferencePairs) == []  # 82.5 %, from 79.7 % on
    assert found(rows[:15], PreferencePairs) == []


# ------------------------------------------------------------------------- edge cases, all


def test_edge_cases_are_counted() -> None:
    rows = clean_rows()
    prompts = ["Not now", "I don't want it", "WHERE IS MY PARCEL", "???", "where is it now"]
    rows[:5] = [replace(row, prompt=text) for row, text in zip(rows, prompts, strict=False)]
    (finding,) = found(rows, EdgeCases)
    assert (finding.level, show(finding)) == (
        "info",
        'unusual prompts in 800 training rows: 2 with at most 2 words, 2 with "not" or another '
        "English negation, 1 in capitals, 1 without letters; "
        "check that the answers respect the negations",
    )
    assert found(rows[:99], EdgeCases) == []


@pytest.mark.parametrize(
    "prompt",
    [
        "注文した商品がまだ届きません。",
        "طلبي لم يصل بعد أريد استرجاع المبلغ",
        "คำสั่งซื้อของฉันยังมาไม่ถึง",
        "주문한 상품이 아직 도착하지 않았어요",
    ],
)
def test_prompts_without_case_or_spaces_are_usual(prompt: str) -> None:
    rows = [replace(row, prompt=f"{prompt}{n}") for n, row in enumerate(clean_rows())]
    assert found(rows, EdgeCases) == []
    (finding,) = found([replace(row, prompt="返金") for row in rows], EdgeCases)
    assert show(finding) == "unusual prompts in 800 training rows: 800 with at most 2 words"


INSTRUCTIONS = (
    "Answer with the label and no other words: {}",
    "{}\n\nDo not explain your answer.",
    "Name the team. Never name two.\n{}\nDon't add anything.",
)


@pytest.mark.parametrize("instructions", [INSTRUCTIONS[:1], INSTRUCTIONS[1:2], INSTRUCTIONS])
def test_a_negation_in_the_instruction_is_not_counted(instructions: tuple[str, ...]) -> None:
    rows = clean_rows()
    asked = [row.prompt for row in rows]
    for n in range(0, 60, 2):
        asked[n] = f"{asked[n]} It is not the {n}th parcel"
    rows = [
        replace(row, prompt=instructions[n % len(instructions)].format(text))
        for n, (row, text) in enumerate(zip(rows, asked, strict=True))
    ]
    (finding,) = found(rows, EdgeCases)
    assert show(finding) == (
        'unusual prompts in 800 training rows: 30 with "not" or another English negation; '
        "check that the answers respect the negations"
    )
    assert found([replace(row, prompt=text) for row, text in zip(rows, asked, strict=True)],
                 EdgeCases) == [finding]  # fmt: skip


def test_the_last_answer_of_a_conversation_is_the_answer() -> None:
    call = Message("assistant", "", tool_calls=(ToolCall("find", '{"id": 1}'),))
    chat = Chat(
        source="a:1",
        messages=(
            Message("system", "Be kind."),
            Message("user", "Hello"),
            Message("assistant", "Hi"),
            Message("user", "Where is it?"),
            call,
        ),
    )
    row = read_row(chat)
    assert row is not None
    assert row.prompt == "Be kind.\nHello\nHi\nWhere is it?"
    assert (row.question, row.answer) == ("Where is it?", '\nfind {"id": 1}')
    assert read_row(Record(source="a:2")) is None
    told = Message("tool", "12", tool_call_id="1"), Message("assistant", "It is in Rome.")
    row = read_row(replace(chat, messages=(*chat.messages, *told)))
    assert row is not None and row.question == "Where is it?"


def test_all_checks_read_each_row_once() -> None:
    reads: list[int] = []

    class Counted(Sequence[Record]):
        rows = clean_rows()

        def __len__(self) -> int:
            return len(self.rows)

        def __getitem__(self, index: int) -> Record:  # type: ignore[override]
            record = self.rows[index]
            reads.append(index)
            return record

    findings = review(Counted())
    assert [finding.where for finding in findings] == []
    assert reads == list(range(800))
    assert len(CHECKS) == 7


def test_the_example_of_the_project_has_no_warning() -> None:
    lines = (EXAMPLE / "train.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [Completion(source=f"train.jsonl:{n}", **json.loads(row)) for n, row in enumerate(lines)]
    assert [finding.where for finding in review(rows)] == ["data edge cases"]
