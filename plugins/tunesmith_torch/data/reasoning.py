"""Reasoning in answers: the part between ``<think>`` and ``</think>`` in front of the content.

In records, an answer with reasoning is one text, ``<think>\\n...\\n</think>\\n\\n...``. Chat
templates differ: some read the reasoning from a separate key, some find it in the text, and some
drop it. Some also write the opening tag at the end of the generation prompt.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

OPENING, CLOSING = "<think>\n", "\n</think>\n\n"
_REASONING = re.compile(r"(\s*<think>\n?)(.*?)(\n?</think>\n*)(.*)", re.DOTALL)
_TAG_AT_END = re.compile(r"([<\[])(/?)(\w*think\w*)([>\]])(\s*)$", re.IGNORECASE)


class Answer(NamedTuple):
    """An assistant turn, split into parts; joined, they are the original text."""

    content: str
    opening: str = ""
    reasoning: str = ""
    closing: str = ""

    @property
    def text(self) -> str:
        """The original text: all four parts, joined."""
        return self.opening + self.reasoning + self.closing + self.content

    @property
    def has_reasoning(self) -> bool:
        """True if the answer has reasoning, not just empty tags."""
        return bool(self.reasoning.strip())


def split_answer(text: str) -> Answer:
    """Split an answer into parts; if it does not start with reasoning, it is all content."""
    found = _REASONING.fullmatch(text) if "<think>" in text else None
    if found is None:
        return Answer(text)
    opening, reasoning, closing, content = found.groups()
    return Answer(content, opening, reasoning, closing)


def join_answer(reasoning: str, content: str) -> str:
    """Return reasoning and content as one text, the form used in records."""
    return OPENING + reasoning + CLOSING + content if reasoning.strip() else content


@dataclass(frozen=True)
class PromptEnd:
    """The reasoning tag at the end of a prompt."""

    tag: str
    """The closing tag, including its brackets."""
    is_open: bool
    """True if the prompt ends with the opening tag; False if it has already closed reasoning."""
    line_break: bool
    """True if the tags stand on separate lines."""

    @classmethod
    def of_prompt(cls, prompt: str) -> PromptEnd | None:
        """Return the tag at the end of a rendered prompt, or None."""
        found = _TAG_AT_END.search(prompt, max(0, len(prompt) - 80))
        if found is None:
            return None
        left, slash, name, right, space = found.groups()
        return cls(f"{left}/{name}{right}", not slash, "\n" in space)

    def close(self, answer: Answer) -> str:
        """Return the text that continues an open reasoning block with this answer.

        Without reasoning, the text closes the block at once: a model that is given an opening tag
        must write the closing tag before its answer.
        """
        if not self.line_break:
            return answer.reasoning + self.tag + answer.content
        return f"{answer.reasoning}\n{self.tag}\n\n{answer.content}"
