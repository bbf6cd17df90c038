"""Represent a chat template as fixed texts between messages, which Ollama can express.

Chat templates are Jinja programs, but Ollama uses Go templates. Most chat templates only write a
fixed text between two messages, depending on their roles. This module finds these texts by
rendering marked conversations, and verifies them on other conversations. It rejects templates that
do more. White space around a message is kept, although many templates remove it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any, Literal, TypeAlias

from tunesmith.errors import UsageError
from tunesmith.records import Message

Role: TypeAlias = Literal["system", "user", "assistant", "tool"]
Pair: TypeAlias = tuple[str, str]
SYSTEM: Role = "system"
USER: Role = "user"
ASSISTANT: Role = "assistant"
TOOL: Role = "tool"
START, CALL, ANSWER = "start", "call", "answer"
"""Placeholders for the start of the conversation, a tool call, and the requested answer."""
_MARK = "qzx{}xzq"
"""Message text that does not occur in any template."""

_MAY_BE_REFUSED: tuple[tuple[Role, ...], ...] = (
    (SYSTEM, USER, ASSISTANT, USER),
    (USER, USER, USER),
    (USER, ASSISTANT),
)
"""Conversations that some templates reject."""

Render = Callable[[Sequence[Message]], str]
"""A function that renders a conversation as text, up to where an answer starts."""


@dataclass(frozen=True)
class Opening:
    """The opening text with tools: the parts before, between and after their definitions."""

    before: str
    between: str = ""
    after: str = ""
    has_definitions: bool = False


@dataclass(frozen=True)
class ToolTurns:
    """The texts that a chat template writes around tools, besides those between turns."""

    opening: Mapping[Pair, Opening]
    """Pairs at the start of a conversation whose text changes if there are tools."""
    with_type: bool
    """True if a definition is the whole tool object, False if only its function."""
    indent: int | None
    """Indentation of definitions in spaces; Ollama writes them without indentation."""
    mark: str
    """Text that starts a call."""
    middle: str
    """Text between name and arguments of a call."""
    name_first: bool
    """True if the name of a call comes before its arguments."""
    results_as_json: bool
    """True if the result of a call is written as a JSON string."""


@dataclass(frozen=True)
class Turns:
    """The text between two messages, depending on the roles of both."""

    between: Mapping[Pair, str]
    tools: ToolTurns | None = None

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation as text, up to the start of the answer."""
        definitions = list(messages[0].tools) if self.tools and messages else []
        kind, text = START, ""
        for message in messages:
            for next_kind, content in self._list_parts(message):
                text += self._write_between((kind, next_kind), definitions) + content
                kind = next_kind
        return text + self._write_between((kind, ANSWER), definitions)

    def without_bos(self, bos: str) -> Turns:
        """Return the turns without a BOS token at the start, for engines that add it themselves."""
        between = {
            pair: text.removeprefix(bos) if pair[0] == START else text
            for pair, text in self.between.items()
        }
        if self.tools is None:
            return Turns(between)
        opening = {
            pair: replace(opening, before=opening.before.removeprefix(bos))
            if pair[0] == START
            else opening
            for pair, opening in self.tools.opening.items()
        }
        return Turns(between, replace(self.tools, opening=opening))

    def _list_parts(self, message: Message) -> Iterator[Pair]:
        """Yield the kind and the text of each part of a message."""
        tools = self.tools
        if tools is None or not message.tool_calls:
            is_json = tools is not None and tools.results_as_json and message.role == TOOL
            yield message.role, dump_json(message.text) if is_json else message.text
            return
        if message.text and (ASSISTANT, CALL) in self.between:
            yield message.role, message.text
        for call in message.tool_calls:
            parts = [call.name, dump_json(json.loads(call.arguments))]
            yield CALL, tools.middle.join(parts if tools.name_first else parts[::-1])

    def _write_between(self, pair: Pair, definitions: Sequence[str]) -> str:
        if self.tools is None or not definitions or pair not in self.tools.opening:
            return self.between.get(pair, "")
        opening = self.tools.opening[pair]
        if not opening.has_definitions:
            return opening.before + opening.after
        written = [self._write_definition(definition) for definition in definitions]
        return opening.before + opening.between.join(written) + opening.after

    def _write_definition(self, definition: str) -> str:
        assert self.tools is not None
        tool = json.loads(definition)
        return dump_json(tool if self.tools.with_type else tool["function"], self.tools.indent)


def dump_json(value: Any, indent: int | None = None) -> str:
    """Return JSON formatted as in chat templates."""
    return json.dumps(value, ensure_ascii=False, indent=indent)


def find_turns(render: Render) -> Turns:
    """Return the texts that a chat template writes between messages.

    Raises:
        UsageError: the template does more than writing such texts.
    """
    between = dict(_find_pieces(render, [USER, ASSISTANT, USER]))
    for roles in _MAY_BE_REFUSED:
        pieces = _find_pieces_if_taken(render, roles)
        if all(between.get(pair, text) == text for pair, text in pieces):
            between.update(pieces)
        elif SYSTEM in roles:
            raise _refusal("writes text between two messages that depends on the system message")
    turns = Turns(between)
    for messages in _probes(with_system=(START, SYSTEM) in between):
        if turns.render(messages) != render(messages):
            raise _refusal("changes messages, or writes text that depends on more than their roles")
    return turns


def _find_pieces_if_taken(render: Render, roles: Sequence[Role]) -> list[tuple[Pair, str]]:
    """Return the text between any two of these roles, or {} if the template rejects them."""
    try:
        return _find_pieces(render, roles)
    except Exception:  # Templates can raise any error.
        return []


def _find_pieces(render: Render, roles: Sequence[Role]) -> list[tuple[Pair, str]]:
    """Return the text between any two of these roles."""
    marked = [Message(role, _MARK.format(n)) for n, role in enumerate(roles)]
    text = render(marked)
    pieces = []
    for before, message in zip([START, *roles], marked, strict=False):
        piece, found, text = text.partition(message.text)
        if not found or message.text in text:
            raise _refusal("skips, repeats or reorders messages")
        pieces.append(((before, message.role), piece))
    return [*pieces, ((roles[-1], ANSWER), text)]


def _probes(*, with_system: bool) -> Iterator[list[Message]]:
    texts = ("What is 1 < 2 & 3?", 'Say "{{ it }}"\\n.', "Grüße 🙂", "a\n\nb", "no", "one more")
    for count in (1, 3, 5):
        roles = cycle((USER, ASSISTANT))
        chat = [Message(role, text) for text, role in zip(texts[:count], roles, strict=False)]
        yield chat
        if with_system:
            yield [Message(SYSTEM, texts[-1]), *chat]


def _refusal(what: str) -> UsageError:
    return UsageError(
        f"ollama: Ollama's template language cannot express the chat template, which {what}",
        hint="export with --to gguf instead: llama-server --jinja runs the chat template itself",
    )
