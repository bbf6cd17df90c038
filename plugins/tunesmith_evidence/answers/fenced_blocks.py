"""Find the fenced code blocks in an answer, by the rules of CommonMark."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

# A fence may be inside a list item.
_OPENING = re.compile(r"(\s*(?:(?:[-*+]|\d{1,9}[.)])\s+)?)(`{3,}(?=[^`]*\Z)|~{3,})(.*)", re.DOTALL)
_LANGUAGE = re.compile(r"[\s{.]*([\w+#.-]*)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced code block, with its language and content."""

    language: str
    """The first word after the opening fence, case-folded, or "" if the fence has no word."""
    text: str


def read_fenced_blocks(text: str) -> list[Block]:
    """Return the fenced blocks of a text, in order.

    A block starts with three or more backticks or tildes. It ends at a line that consists of at
    least as many of them, or at the end of the text. The indent of the opening fence is removed
    from the lines in the block.
    """
    return [*_read(iter(text.replace("\r\n", "\n").split("\n")))]


def _read(lines: Iterator[str]) -> Iterator[Block]:
    for line in lines:
        opening = _OPENING.fullmatch(line)
        if opening is None:
            continue
        indent, fence = len(opening[1]), opening[2]
        closing = re.compile(rf"\s*{fence[0]}{{{len(fence)},}}\s*")
        inside: list[str] = []
        for inner in lines:
            if closing.fullmatch(inner):
                break
            inside.append(re.sub(rf"\A[ \t]{{0,{indent}}}", "", inner))
        language = _LANGUAGE.match(opening[3])
        assert language is not None, "it may be empty"
        yield Block(language[1].casefold(), textwrap.dedent("\n".join(inside)))
