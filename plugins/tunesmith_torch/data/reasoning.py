"""Reasoning in answers: the part between ``<think>`` and ``</think>`` in front of the content.

In records, an answer with reasoning is one text, ``<think>\\n...\\n</think>\\n\\n...``. Templates
differ: some read the reasoning from a key of its own, some find it in the text, some drop it, and
some write the opening tag at the end of the generation prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

OPENING, CLOSING = "<think>\n", "\n</think>\n\n"
_REASONING = re.compile(r"(\s*<think>\n?)(.*?)(\n?</think>\n*)(.*)", re.DOTALL)
_TAG_AT_END = re.compile(r"([<\[])(/?)(\w*think\w*)([>\]])(\s*)$", re.IGNORECASE)


class Answer(NamedTuple):
    """The text of an assistant's turn, in parts that put together give the text again."""

    content: str
    opening: str = ""
    reasoning: str = ""
    closing: str = ""

    @property
    def text(self) -> str:
        """The complete text."""
        return self.opening + self.reasoning + self.closing + self.content

    @property
    def has_reasoning(self) -> bool:
        """True if there is reasoning, and not only its tags."""
        return bool(self.reasoning.strip())


def split_answer(text: str) -> Answer:
    """Return the parts of an answer; without reasoning at its start it is content only."""
    found = _REASONING.fullmatch(text) if "<think>" in text else None
    if found is None:
        return Answer(text)
    opening, reasoning, closing, content = found.groups()
    return Answer(content, opening, reasoning, closing)


def join_answer(reasoning: str, content: str) -> str:
    """Return the text of an answer with reasoning, as records have it."""
    return OPENING + reasoning + CLOSING + content if reasoning.strip() else content


@dataclass(frozen=True)
class PromptEnd:
    """The reasoning tag at the end of a prompt."""

    tag: str
    """The closing tag, with its brackets."""
    is_open: bool
    """True after an opening tag: the model reasons first. False: reasoning is already over."""
    line_break: bool
    """True if the tags stand on lines of their own."""

    @classmethod
    def of_prompt(cls, prompt: str) -> PromptEnd | None:
        """Return the tag at the end of a rendered prompt; None if there is none."""
        found = _TAG_AT_END.search(prompt, max(0, len(prompt) - 80))
        if found is None:
            return None
        left, slash, name, right, space = found.groups()
        return cls(f"{left}/{name}{right}", not slash, "\n" in space)

    def close(self, answer: Answer) -> str:
        """Return the text that continues an open reasoning block with this answer.

        Without reasoning the block is closed at once, since a model that reads an opening tag has
        to write the closing one in front of its answer.
        """
        if not self.line_break:
            return answer.reasoning + self.tag + answer.content
        return f"{answer.reasoning}\n{self.tag}\n\n{answer.content}"
