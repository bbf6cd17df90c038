"""A recorded call of a language model, and its row for training."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from hashlib import blake2b
from typing import Any, TypeAlias

from tunesmith_data import Fields, RowError

JSON: TypeAlias = dict[str, Any]
WORDS = {
    **dict.fromkeys(("good", "up", "positive", "yes", "true", "pass", "like", "correct"), True),
    **dict.fromkeys(("bad", "down", "negative", "no", "false", "fail", "dislike"), False),
    **dict.fromkeys(("wrong", "incorrect"), False),
}
"""Words of feedback; True if they mean that an answer is good."""
SESSION = "session"
"""The column with the id of the conversation, whose rows stay in the same split."""
NEVER = Decimal("-Infinity")
LATEST_SECOND = 10**11
"""Numbers of seconds since 1970 are smaller, until the year 5138; others are in smaller units."""
_NO_TEXT = ("role", "from", "type", "id", "tool_call_id")
"""Keys of messages that no text is in."""
_ARGUMENTS = ("arguments", "parameters")
_INSIDE = "*"
"""Stands for every key inside arguments and other JSON, which may all contain personal data."""
Mask: TypeAlias = Callable[[Sequence[str]], "tuple[list[str], Counter[str]]"]
"""Returns the texts of a row with personal data masked, and the number of replacements."""
Call: TypeAlias = "Callable[[], Trace | None]"
"""Reads a call, so that a call with an error does not hide the others of its row. None: no call."""


@dataclass(frozen=True, kw_only=True)
class Trace:
    """A call with its prompt and answer as messages of OpenAI's chat API."""

    conversation: str
    """The id of the conversation, or of the call itself; empty if it has none."""
    prompt: Sequence[JSON]
    answer: JSON
    tools: Sequence[JSON] = ()
    finish_reason: str = ""
    failed: bool = False
    scores: Mapping[str, object] = field(default_factory=dict)
    """Feedback by name: from users, from reviewers, or from a model that judges answers."""
    labels: Mapping[str, object] = field(default_factory=dict)
    """Facts about the call, such as its model and its version."""

    def to_row(self, *, label: bool | None, slices: Sequence[str], mask: Mask | None) -> Fields:
        """Return the row, whose only trained turn is the answer.

        Earlier answers of the conversation are the answers of other calls. They have weight 0,
        because otherwise a conversation of ten calls would train its first answer ten times.
        """
        earlier = ({**message, "weight": 0} for message in self.prompt)
        messages = [*earlier, {**self.answer, "role": "assistant"}]
        known = {name: self.labels[name] for name in slices if self.labels.get(name) is not None}
        labels, session = {name: str(value) for name, value in known.items()}, self.conversation
        if mask:  # the id of a conversation can be a telephone number
            messages, session = mask_texts(messages, mask), session and make_digest(session)
            labels = {name: mask([text])[0][0] for name, text in labels.items()}
        session = session or make_digest(json.dumps(messages))
        row: JSON = {**labels, "messages": messages, SESSION: session}
        row |= {"tools": list(self.tools)} if self.tools else {}
        return row if label is None else {**row, "label": label}


def make_digest(text: str) -> str:
    """Return a checksum of a text."""
    return blake2b(text.encode(), digest_size=16).hexdigest()


def mask_texts(messages: list[JSON], mask: Mask) -> list[JSON]:
    """Replace personal data in the texts of messages; equal values get equal placeholders."""
    texts: list[str] = []

    def collect(text: str) -> str:
        texts.append(text)
        return text

    replace_texts(messages, collect)
    masked = iter(mask(texts)[0])
    return [replace_texts(message, lambda text: next(masked)) for message in messages]


def replace_texts(value: Any, replace: Callable[[str], str], key: str = "") -> Any:
    """Return a value with its texts replaced, but not its roles, types and ids."""
    if isinstance(value, str):
        return value if key in _NO_TEXT else _replace_text(value, replace)
    if isinstance(value, dict):
        if key in (*_ARGUMENTS, _INSIDE):
            return {replace(n): replace_texts(v, replace, _INSIDE) for n, v in value.items()}
        return {name: replace_texts(item, replace, name) for name, item in value.items()}
    if isinstance(value, list):
        return [replace_texts(item, replace, key) for item in value]
    if key == _INSIDE and isinstance(value, int) and not isinstance(value, bool):
        new = replace(str(value))
        return value if new == str(value) else new
    return value


def _replace_text(text: str, replace: Callable[[str], str]) -> str:
    """Replace a text; if it is JSON, replace its values, because its escapes hide their starts."""
    plain = replace(text)
    if not text.lstrip().startswith(("{", "[")):
        return plain
    try:
        value = json.loads(text)
    except ValueError:
        return plain
    new = replace_texts(value, replace, _INSIDE)
    if new == value:
        return plain
    return json.dumps(new, ensure_ascii=False, separators=None if '": ' in text else (",", ":"))


def choose_score(word: object, value: object) -> object:
    """Return the word of a score if it is known, otherwise its value.

    A high value is bad for a score such as toxicity, so a known word counts more.
    """
    is_known = str(word).strip().casefold() in WORDS
    return word if is_known or value is None else value


def read_time(value: object) -> Decimal:
    """Return a time in seconds: ISO 8601, or a number of s, ms, us or ns since 1970.

    A missing or unknown time is before all others. A float would be too coarse for nanoseconds.
    """
    try:
        seconds = Decimal(str(value))
    except InvalidOperation:
        return _read_date(str(value))
    if not seconds.is_finite():
        return NEVER
    while abs(seconds) >= LATEST_SECOND:
        seconds /= 1000
    return seconds


def _read_date(text: str) -> Decimal:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return NEVER
    return Decimal((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())


def read_label(value: object, good_from: float) -> bool | None:
    """Return True for good feedback, False for bad feedback, and None if there is none.

    Raises:
        RowError: the feedback is neither a number nor a known word.
    """
    if isinstance(value, bool):
        return value
    text = "" if value is None else str(value).strip().casefold()
    if not text:
        return None
    if text in WORDS:
        return WORDS[text]
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return number >= good_from
    hint = f"use numbers, true and false, or the words {', '.join(WORDS)}"
    raise RowError("feedback has an unknown value", text, hint=hint)
