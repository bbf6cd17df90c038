"""Descriptions of the expected answers."""

from __future__ import annotations

import json

from tunesmith_evidence.prompting.instructions import (
    describe_answers,
    describe_labels,
    describe_length,
    describe_objects,
)


def test_labels_are_listed() -> None:
    text = describe_answers("classes", ["no", "yes", "no"])
    assert text == describe_labels(["yes", "no"])
    assert text.endswith(":\n- no\n- yes")
    assert describe_labels([f"label {n}" * 20 for n in range(500)]) == ""


def test_keys_are_described_in_their_order() -> None:
    answers = [
        json.dumps({"id": f"A-{n}", "kind": "ab"[n % 2], "price": n + 0.5, "by": {"name": f"N{n}"}})
        for n in range(20)
    ]
    answers[3] = json.dumps(
        {"id": "A-3", "kind": "b", "price": 1.5, "by": {"name": "N"}, "x": True}
    )
    text = describe_answers("objects", answers)
    lines = text.splitlines()
    assert lines[1] == '- "id": a text, such as "A-0"'
    assert lines[2] == '- "kind": one of "a", "b"'
    assert lines[3] == '- "price": a number, such as 1.5'
    assert lines[4] == '- "name" inside "by": a text, such as "N"'
    assert lines[5] == '- "x": true or false, such as true; left out if there is none'
    assert lines[-1] == answers[3]
    assert describe_objects(["no object"]) == ""


def test_the_length_of_short_answers() -> None:
    assert "at most 1 word," in describe_answers("text", ["Paris", "Rome"])
    assert "at most 3 words," in describe_length(["a b c"] * 20)
    assert describe_length(["a\nb"]) == describe_length(["w " * 40]) == describe_length([]) == ""
