"""Fields, validity and schema of JSON answers, worked by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.contracts import Measurement
from tunesmith.errors import DataError, UsageError
from tunesmith.records import Completion
from tunesmith.testing.examples import COMPLETIONS, OBJECTS
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.evaluators.json_answer import (
    JSON_ANSWER,
    JsonOptions,
    are_json_values_equal,
    describe_shape,
    flatten_fields,
)

REFERENCE = '{"name": "Ann", "order": {"id": 7, "items": ["a", "b"]}, "paid": true}'


def measure(
    answer: str, reference: str = REFERENCE, schema: Path | None = None
) -> list[Measurement]:
    record = Completion(source="a:1", prompt="q", completion=reference)
    options = JsonOptions(max_new_tokens=99, json_schema=str(schema) if schema else None)
    model = FakeTextModel(answers={"q": answer})
    return [*JSON_ANSWER.build(options).measure(model, [record])]


@pytest.mark.parametrize(
    ("answer", "fields", "valid", "schema"),
    [
        (REFERENCE, 1, 1, 1),
        (f"```json\n{REFERENCE}\n```", 1, 1, 1),
        (f"~~~JSON\n{REFERENCE}\n~~~", 1, 1, 1),
        (f"````\n{REFERENCE}\n````", 1, 1, 1),
        ('{"paid": true, "order": {"items": ["a", "b"], "id": 7.0}, "name": "Ann"}', 1, 1, 1),
        ('{"name": "Bob", "order": {"id": 7, "items": ["a"]}, "paid": true}', 2 / 4, 1, 1),
        ('{"name": "Ann", "order": {"id": "7", "items": ["a", "b"]}, "paid": true}', 3 / 4, 1, 0),
        ('{"name": "Ann", "order": {"id": 7, "items": ["a", "b"]}, "paid": 1}', 3 / 4, 1, 0),
        ('{"name": "Ann"}', 1 / 4, 1, 0),
        (REFERENCE[:-1] + ', "more": null}', 4 / 5, 1, 0),
        ("[]", 0, 1, 0),
        (REFERENCE[:-1], 0, 0, 0),
        ("Here it is: {}", 0, 0, 0),
        ('{"name": NaN}', 0, 0, 0),
        ("", 0, 0, 0),
        ("[" * 100_000, 0, 0, 0),
    ],
)
def test_answers_by_hand(answer: str, fields: float, valid: float, schema: float) -> None:
    found = {m.metric: m.values[0] for m in measure(answer)}
    assert found == {"json-fields": fields, "json-valid": valid, "json-schema": schema}


def test_schema_of_the_user(tmp_path: Path) -> None:
    path = tmp_path / "schema.json"
    path.write_text(json.dumps({"type": "object", "required": ["name"]}), encoding="utf-8")
    assert measure('{"name": 1}', schema=path)[2].values == (1,)
    assert measure('{"id": 1}', schema=path)[2].values == (0,)


@pytest.mark.parametrize("text", ["{", '{"type": "nothing"}'])
def test_a_schema_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "schema.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UsageError, match="cannot be read as a JSON schema"):
        measure("{}", schema=path)


def test_details_have_the_accuracy_of_each_field() -> None:
    fields = measure('{"name": "Ann", "paid": false}')[0].details["fields"]
    assert {name: field["accuracy"] for name, field in fields.items()} == {
        "name": 1, "order.id": 0, "order.items": 0, "paid": 0,
    }  # fmt: skip


def test_a_reference_that_is_not_json_is_an_error() -> None:
    with pytest.raises(DataError, match="a:1: the reference answer is not JSON"):
        measure("{}", "none")


def test_values_and_fields() -> None:
    assert are_json_values_equal([1, {"a": "b  c"}], [1.0, {"a": "b c"}])
    assert not are_json_values_equal(1, True)
    assert are_json_values_equal(
        "Cafe\N{COMBINING ACUTE ACCENT}", "Caf\N{LATIN SMALL LETTER E WITH ACUTE}"
    )
    assert not are_json_values_equal([1], [1, 2])
    assert flatten_fields({"a.b": 1, "a": {"b": 2}}) == {"a\\.b": 1, "a.b": 2}
    assert flatten_fields({"": {"a": 1}}) == {".a": 1} and flatten_fields({"": 1}) == {"": 1}
    assert describe_shape([1, "a"]) == ["number"]


def test_is_default_for_objects() -> None:
    assert JSON_ANSWER.default_for(OBJECTS)
    assert not JSON_ANSWER.default_for(COMPLETIONS)
    assert not JSON_ANSWER.default_for([])
