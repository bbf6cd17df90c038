"""Fenced blocks in the forms that models write."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith_evidence.answers.fenced_blocks import Block, read_fenced_blocks

CODE = "def f(x):\n    return x"


@pytest.mark.parametrize("fence", ["```", "~~~", "````", "~~~~~~"])
@pytest.mark.parametrize(
    ("info", "language"),
    [
        ("", ""), ("python", "python"), ("Python", "python"), ("python3", "python3"),
        (" PY ", "py"), ("python title=\"a.py\"", "python"), ("{.python .numbered}", "python"),
        ("{python}", "python"), ("python:main.py", "python"), ("c++", "c++"), ("c#", "c#"),
    ],
)  # fmt: skip
def test_fences_of_any_length_and_language(fence: str, info: str, language: str) -> None:
    text = f"Here it is:\n{fence}{info}\n{CODE}\n{fence}\nIt works."
    assert read_fenced_blocks(text) == [Block(language, CODE)]
    assert read_fenced_blocks(text.replace("\n", "\r\n")) == [Block(language, CODE)]


@pytest.mark.parametrize("indent", ["  ", "   ", "    ", "\t", "- ", "1. "])
def test_the_indent_of_a_fence_is_removed(indent: str) -> None:
    below = " " * len(indent) if indent.strip() else indent
    lines = "\n".join(f"{below}{line}" for line in [*CODE.splitlines(), "```"])
    assert read_fenced_blocks(f"{indent}```py\n{lines}\nend") == [Block("py", CODE)]


def test_shorter_and_other_fences_are_a_part_of_a_block() -> None:
    text = "````md\n```python\nx\n```\n~~~\n````\n~~~\n```\n~~~"
    assert [block.text for block in read_fenced_blocks(text)] == ["```python\nx\n```\n~~~", "```"]


def test_a_block_that_is_cut_off_ends_with_the_text() -> None:
    assert read_fenced_blocks("```py\nx = 1\ny") == [Block("py", "x = 1\ny")]
    assert read_fenced_blocks("```py\n```") == read_fenced_blocks("```py") == [Block("py", "")]


@pytest.mark.parametrize("text", ["", "x = 1", "```x``` is code", "``\nx\n``", "a ```\nx\n```"[:6]])
def test_no_block(text: str) -> None:
    assert read_fenced_blocks(text) == []


LINES = st.lists(st.text(st.characters(exclude_categories=["C", "Z"]), max_size=8), max_size=5)


@given(LINES, st.sampled_from("`~"), st.integers(3, 6))
def test_what_is_fenced_is_read_back(lines: list[str], mark: str, length: int) -> None:
    inside = "\n".join(lines)
    fence = mark * (length + max(inside.count(mark), 0))
    (block,) = read_fenced_blocks(f"{fence}\n{inside}\n{fence}")
    assert block.text == inside
