"""Answers that are JSON objects: read into fields, and written as they were."""

from __future__ import annotations

import json

import pytest

from tunesmith_evidence.tasks.json_answers import (
    JsonFields,
    JsonStyle,
    find_field_order,
    find_json_style,
    have_equal_values,
    parse_json_object,
)

VALUE = {
    "name": 'Zoë "Z" O\'Neil',
    "total": 12,
    "order": {"id": "A-1", "lines": [1, {"x": None}], "none": {}},
    "ok": True,
}
WRITERS = {
    "plain": json.dumps,
    "unicode": lambda v: json.dumps(v, ensure_ascii=False),
    "compact": lambda v: json.dumps(v, separators=(",", ":")),
    "indented": lambda v: json.dumps(v, indent=2),
    "indented by four": lambda v: json.dumps(v, indent=4, ensure_ascii=False),
    "fenced": lambda v: f"```json\n{json.dumps(v, indent=2)}\n```",
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_style_writes_fields_as_they_were(name: str) -> None:
    answers = [WRITERS[name]({**VALUE, "total": n}) for n in range(3)]
    fields = [parse_json_object(answer) for answer in answers]
    style = find_json_style(answers)
    assert [style.write_fields(f) for f in fields if f is not None] == answers


def test_fields_are_paths_with_json_texts() -> None:
    assert parse_json_object('{"a": {"b": "x", "c": []}, "d": 12.50, "e": {}, "f": null}') == {
        ("a", "b"): '"x"',
        ("a", "c"): "[]",
        ("d",): "12.50",
        ("e",): "{}",
        ("f",): "null",
    }


def test_numbers_stay_as_they_are_written() -> None:
    for number in ("12.50", "1e3", "-0", "1" * 30):
        fields = parse_json_object(f'{{"n": {number}}}')
        assert fields == {("n",): number}
        assert JsonStyle().write_fields(fields) == f'{{"n": {number}}}'


@pytest.mark.parametrize(
    "answer", ["", "no", "[1]", "12", '{"a": 1} and more', '{"a": 1, "a": 2}', "{" * 5000]
)
def test_other_answers_are_no_objects(answer: str) -> None:
    assert parse_json_object(answer) is None


@pytest.mark.parametrize(
    ("first", "second", "are_equal"),
    [
        ('{"a": 12.50}', '{"a": 12.5}', True),
        ('{"a": {"b": 1e3}}', '{"a": {"b": 1000}}', True),
        ('{"a": [1, 2.0]}', '{"a": [1.0, 2]}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": "1"}', '{"a": 1}', False),
        ('{"a": 1}', '{"a": 1, "b": null}', False),
        ('{"a.b": 1}', '{"a": {"b": 1}}', False),
    ],
)
def test_equal_values_may_be_written_otherwise(first: str, second: str, are_equal: bool) -> None:
    def read(text: str) -> JsonFields:
        fields = parse_json_object(text)
        assert fields is not None
        return fields

    assert have_equal_values(read(first), read(second)) is are_equal


def test_the_order_of_fields_is_that_of_most_answers() -> None:
    answers = ['{"a": 1, "c": 3}', '{"a": 1, "b": 2, "c": 3}', '{"a": 1, "b": 2}']
    objects = [fields for fields in map(parse_json_object, answers) if fields is not None]
    assert find_field_order(objects) == [("a",), ("b",), ("c",)]


def test_a_value_and_an_object_at_one_path() -> None:
    assert JsonStyle().write_fields({("a",): "1", ("a", "b"): "2"}) == '{"a": {"b": 2}}'
