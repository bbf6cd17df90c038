"""The schema of JSON answers: what may be written, with an end to everything."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.tasks.json_schema import derive_schema

jsonschema = pytest.importorskip("jsonschema")


def derive(*objects: Any) -> dict[str, Any]:
    schema = derive_schema([json.dumps(value) for value in objects])
    assert schema is not None
    return schema


def test_keys_types_and_values() -> None:
    rows = [
        {"queue": "card" if n % 2 else "loan", "id": f"T-{n}", "n": n, "paid": n > 2, "x": n / 2}
        for n in range(10)
    ]
    del rows[3]["n"]
    schema = derive(*rows)
    assert list(schema["properties"]) == ["queue", "id", "n", "paid", "x"]
    assert schema["required"] == ["queue", "id", "paid", "x"]
    assert schema["properties"]["queue"] == {"enum": ["card", "loan"]}
    assert schema["properties"]["id"] == {"type": "string", "minLength": 1, "maxLength": 6}
    assert schema["properties"]["n"] == {"type": "integer", "minimum": 0, "maximum": 99}
    assert schema["properties"]["paid"] == {"enum": [False, True]}
    assert schema["properties"]["x"]["type"] == "number"


def test_kinds_that_are_mixed_nested_or_empty() -> None:
    schema = derive(
        {"a": None, "b": {"c": ["x", "y"]}, "d": [], "e": ""}, {"a": -7, "b": {"c": []}, "e": ""}
    )
    a, b, d, e = schema["properties"].values()
    assert a == {"anyOf": [{"enum": [None]}, {"type": "integer", "minimum": -99, "maximum": 99}]}
    assert b["properties"]["c"]["maxItems"] == 4
    assert d == {"type": "array", "maxItems": 0} and e == {"enum": [""]}
    assert derive_schema(["no object", "[1]", "{}"]) is None
    assert derive_schema(['```json\n{"a": 1}\n```']) == derive({"a": 1})


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**6), 10**6) | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), values, min_size=1), min_size=1, max_size=6)
)
def test_every_answer_is_valid_by_an_independent_validator(objects: list[dict[str, Any]]) -> None:
    schema = derive(*objects)
    for value in objects:
        jsonschema.validate(value, schema)


@pytest.mark.parametrize("text", ["NaN", "-Infinity", "1e400"])
def test_numbers_that_are_not_finite_say_nothing_about_the_range(text: str) -> None:
    """Tables are often written with NaN for a missing number."""
    some = derive_schema([f'{{"a": {text}}}', '{"a": 3}'])
    assert some is not None and some["properties"]["a"] == {
        "type": "integer", "minimum": 0, "maximum": 99,
    }  # fmt: skip
    none = derive_schema([f'{{"a": {text}}}'])
    assert none is not None and none["properties"]["a"] == {"type": "number"}
