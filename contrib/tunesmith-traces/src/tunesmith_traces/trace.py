"""A recorded call of a language model, and its row for training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from tunesmith_data import Fields, RowError
from tunesmith_data.personal_data import mask_row

JSON: TypeAlias = dict[str, Any]
WORDS = {
    **dict.fromkeys(("good", "up", "positive", "yes", "true", "pass", "like", "correct"), True),
    **dict.fromkeys(("bad", "down", "negative", "no", "false", "fail", "dislike", "wrong"), False),
}
"""Words of feedback; True if they mean that an answer is good."""
SESSION = "session"
"""The column with the id of the conversation, whose rows stay in the same split."""
_TEXT_KEYS = ("content", "text", "arguments", "reasoning_content", "reasoning")


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A call with its prompt and answer as messages of OpenAI's chat API."""

    conversation: str
    """The id of the conversation, or of the call itself."""
    prompt: Sequence[JSON]
    answer: JSON
    tools: Sequence[JSON] = ()
    finish_reason: str = ""
    failed: bool = False
    scores: Mapping[str, object] = field(default_factory=dict)
    """Feedback by name: from users, from reviewers, or from a model that judges answers."""
    labels: Mapping[str, object] = field(default_factory=dict)
    """Facts about the call, such as its model and its version."""

    def to_row(self, *, label: bool | None, slices: Sequence[str], mask: bool) -> Fields:
        """Return the row, whose only trained turn is the answer.

        Earlier answers of the conversation are the answers of other calls. They have weight 0,
        because otherwise a conversation of ten calls would train its first answer ten times.
        """
        earlier = ({**m, "weight": 0} if m["role"] == "assistant" else m for m in self.prompt)
        messages = [*earlier, {**self.answer, "role": "assistant"}]
        row: JSON = {"messages": mask_texts(messages) if mask else messages}
        row |= {SESSION: self.conversation}
        row |= {name: str(self.labels[name]) for name in slices if name in self.labels}
        row |= {"tools": list(self.tools)} if self.tools else {}
        return row if label is None else {**row, "label": label}


def mask_texts(messages: list[JSON]) -> list[JSON]:
    """Replace personal data in the texts of messages; equal values get equal placeholders."""
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    replace_texts(messages, collect)
    masked = iter(mask_row(texts)[0])
    return [replace_texts(message, lambda text: next(masked)) for message in messages]


def replace_texts(value: Any, replace: Callable[[str], str], key: str = "") -> Any:
    """Return a value with its texts replaced, but not its roles, types, names and ids."""
    if isinstance(value, str):
        return replace(value) if key in _TEXT_KEYS else value
    if isinstance(value, dict):
        return {name: replace_texts(item, replace, name) for name, item in value.items()}
    if isinstance(value, list):
        return [replace_texts(item, replace, key) for item in value]
    return value


def read_label(value: object, good_from: float) -> bool | None:
    """Return True for good feedback, False for bad feedback, and None if there is none.

    Raises:
        RowError: the feedback is neither a number nor a known word.
    """
    if value is None or isinstance(value, bool):
        return value
    text = str(value).strip().casefold()
    if text in WORDS:
        return WORDS[text]
    try:
        return float(text) >= good_from
    except ValueError:
        hint = f"use numbers, true and false, or the words {', '.join(WORDS)}"
        raise RowError("feedback has an unknown value", text, hint=hint) from None
