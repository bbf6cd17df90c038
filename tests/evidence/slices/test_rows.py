"""Rows of a file of values."""

from __future__ import annotations

from tunesmith_evidence.slices.rows import to_scored_rows


def test_lines_of_a_file_of_values() -> None:
    line = {
        "row": 7, "source": "a:1", "prompt": [["system", "s"], ["user", "u"], ["assistant", "a"]],
        "expected": "e", "output": "o", "group": "g", "slices": {"lang": "de"},
        "exact": {"value": 0.5, "weight": 2.0},
    }  # fmt: skip
    (row,) = to_scored_rows([line], "exact")
    assert (row.number, row.question, row.value, row.weight) == (7, "u", 0.5, 2.0)
    assert row.columns == (("lang", "de"),) and row.group == "g"


def test_lines_of_earlier_versions() -> None:
    first, second = to_scored_rows([{"exact": {"value": 1, "weight": 1}}] * 2, "exact")
    assert (first.number, second.number, first.prompt, first.question) == (0, 1, (), "")
    (row,) = to_scored_rows([{"prompt": "text", "exact": {"value": 1, "weight": 1}}], "exact")
    assert row.question == "text"
