"""An answer matches if it equals the reference up to white space and Unicode composition."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.contracts import Measurement
from tunesmith.errors import DataError
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Record,
    Text,
    ToolCall,
    UnpairedPreference,
)
from tunesmith.testing.fakes import FakeTextModel, perfect_model
from tunesmith_evidence.answers.generate import choose_max_new_tokens
from tunesmith_plugins.evaluators.exact_match import EXACT_MATCH, ExactMatchOptions


def completions(*answers: str) -> list[Record]:
    return [
        Completion(source=f"a:{n}", prompt=f"q{n}", completion=answer)
        for n, answer in enumerate(answers)
    ]


def measure(model: FakeTextModel, records: Sequence[Record], **options: Any) -> Measurement:
    (measurement,) = EXACT_MATCH.build(ExactMatchOptions(**options)).measure(model, records)
    return measurement


def matches(answer: str, reference: str, **options: Any) -> bool:
    measurement = measure(
        FakeTextModel(answers={"q0": answer}), completions(reference), max_new_tokens=99, **options
    )
    assert measurement.outputs == (answer,)
    return measurement.values == (1.0,)


@pytest.mark.parametrize(
    "answer, reference, same",
    [
        ("lost card", "lost card", True),
        (" lost\n  card ", "lost card", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("Lost card", "lost card", False),
        ("lost card.", "lost card", False),
        ("lost", "lost card", False),
        ("", "lost card", False),
        ("\u2460", "1", False),
        ('{"b":2,"a":"x  y"}', '{"a": "x y", "b": 2.0}', True),
        ('```json\n{"a": 1}\n```', '{"a": 1}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 1, "b": 2}', '{"a": 1}', False),
        ('{"a": 1} or so', '{"a": 1}', False),
        ("[1,2]", "[1, 2]", True),
        ("[2, 1]", "[1, 2]", False),
        ("1.0", "1", False),
    ],
)
def test_answers_that_match_the_reference(answer: str, reference: str, same: bool) -> None:
    assert matches(answer, reference) is same


def test_ignore_case() -> None:
    assert matches("STRASSE", "Stra\u00dfe", ignore_case=True)


@pytest.mark.parametrize(
    "answer, reference, extract, same",
    [
        ("it is 40+2 #### 42", "so: #### 42", r"#### *(\S+)", True),
        ("#### 41 no, #### 42", "#### 42", r"#### *(\S+)", True),
        ("#### 42 no, #### 41", "#### 42", r"#### *(\S+)", False),
        ("42", "#### 42", r"#### *(\S+)", False),
        ("yes, of course", "yes", r"yes|no", True),
        ("b", "ab", r"(a)?b", False),
    ],
)
def test_extract_compares_the_last_match(
    answer: str, reference: str, extract: str, same: bool
) -> None:
    assert matches(answer, reference, extract=extract) is same


def test_reference_without_an_extract_match_is_an_error_that_names_the_record() -> None:
    with pytest.raises(DataError, match="a:0: the pattern `extract` does not match"):
        matches("#### 1", "forty-two", extract="#### *(.*)")


def test_the_last_answer_of_a_conversation_is_generated() -> None:
    turns = [("user", "q"), ("assistant", "no"), ("user", "q2"), ("assistant", "yes")]
    record = Chat(source="a:1", messages=tuple(Message(r, c) for r, c in turns))  # type: ignore[arg-type]
    assert measure(FakeTextModel(answers={"q2": "yes"}), [record]).values == (1.0,)


def test_perfect_model_scores_best() -> None:
    records = completions("a", "b c", "é")
    assert measure(perfect_model(records), records).values == (1.0, 1.0, 1.0)
    assert measure(FakeTextModel(), records).values == (0.0, 0.0, 0.0)
    assert EXACT_MATCH.metrics[0].higher_is_better


@pytest.mark.parametrize("size", [1, 2, 5])
def test_values_do_not_depend_on_batch_size(size: int) -> None:
    records = completions("a", "b", "a long answer of many words", "d", "e")
    model = FakeTextModel(answers={"q0": "a", "q2": "a long answer of many words", "q3": "x"})
    values = [
        value
        for i in range(0, len(records), size)
        for value in measure(model, records[i : i + size]).values
    ]
    assert values == [1.0, 0.0, 1.0, 0.0, 0.0]


def test_no_records() -> None:
    measurement = measure(FakeTextModel(), [])
    assert measurement.values == ()
    assert measurement.outputs == ()


def test_max_new_tokens_is_chosen_from_the_longest_reference() -> None:
    assert choose_max_new_tokens(["a", "été"]) == 5 + 8
    assert choose_max_new_tokens(["x" * 10_000]) == 512
    assert choose_max_new_tokens([]) == 8
    model = FakeTextModel()
    measure(model, completions("four"))
    measure(model, completions("four"), max_new_tokens=3)
    assert model.calls == [("generate", 12), ("generate", 3)]


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 0},
        {"max_new_tokens": "all"},
        {"extract": "("},
        {"extract": ""},
        {"case": True},
    ],
    ids=str,
)
def test_invalid_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ExactMatchOptions(**options)


def test_is_default_for_short_answers() -> None:
    short, long = completions(*["yes"] * 9), completions("x" * 65)
    assert EXACT_MATCH.default_for(short)
    assert EXACT_MATCH.default_for([*short, *long])
    assert not EXACT_MATCH.default_for([*short, *long, *long])
    assert not EXACT_MATCH.default_for([])
    assert not EXACT_MATCH.default_for([*short, Text(source="t", text="t")])
    pair = Preference(source="p", prompt=(Message("user", "q"),), chosen="a", rejected="b")
    assert not EXACT_MATCH.default_for([*short, pair])


REASONED = Chat(
    source="a:1",
    messages=(Message("user", "q0"), Message("assistant", "Paris", reasoning="In France.")),
)


@pytest.mark.parametrize(
    ("answer", "same"),
    [
        ("<think>\nIt is in France.\n</think>\n\nParis", True),
        ("Paris", True),
        ("<think>\nIt is in France.\n</think>\n\nRome", False),
        ("<think>Paris", False),
        ("I say <think>Rome</think> Paris", False),
    ],
)
def test_reasoning_in_front_of_an_answer_is_not_compared(answer: str, same: bool) -> None:
    model = FakeTextModel(answers={"q0": answer})
    assert measure(model, [REASONED], max_new_tokens=99).values == (float(same),)


def test_there_is_room_for_the_reasoning() -> None:
    model = FakeTextModel()
    measure(model, [REASONED])
    reasoned = "<think>\nIn France.\n</think>\n\nParis"
    assert model.calls == [("generate", len(reasoned) + 8)]


def test_tool_calls_are_refused_and_no_default() -> None:
    calls = Message("assistant", "", tool_calls=(ToolCall("weather"),))
    record = Chat(source="a:7", messages=(Message("user", "q0"), calls))
    with pytest.raises(DataError, match="a:7: the evaluator exact-match cannot compare tool calls"):
        measure(FakeTextModel(), [record])
    assert not EXACT_MATCH.default_for([record])
    labeled = UnpairedPreference(
        source="a:8", prompt=(Message("user", "q0"),), completion="a", label=False
    )
    assert not EXACT_MATCH.default_for([labeled])
