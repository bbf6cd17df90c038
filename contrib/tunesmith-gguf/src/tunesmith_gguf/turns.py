"""A chat template as the texts between messages, and the same in Ollama's template language.

A chat template is a program in Jinja; Ollama has templates of its own, in Go. Most chat templates
do no more than write a fixed text between two messages, which depends on their roles. These texts
are found by rendering conversations, and tried on others: a template that does more is refused.
White space around a message, which many templates remove, stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, pairwise
from typing import Literal, TypeAlias

from tunesmith.errors import UsageError
from tunesmith.records import Message

Role: TypeAlias = Literal["system", "user", "assistant"]
SYSTEM: Role = "system"
USER: Role = "user"
ASSISTANT: Role = "assistant"
START, ANSWER = "start", "answer"
"""Stand for what is before the first message, and for the answer that is asked for."""
_MARK = "qzx{}xzq"
"""A message that is in no template."""

_MAY_BE_REFUSED: tuple[tuple[Role, ...], ...] = (
    (SYSTEM, USER, ASSISTANT, USER),
    (USER, USER, USER),
    (USER, ASSISTANT),
)
"""Conversations that some templates do not take."""

Render = Callable[[Sequence[Message]], str]
"""Return a conversation as text, up to where an answer begins."""


@dataclass(frozen=True)
class Turns:
    """The text between two messages, by the roles of both."""

    between: Mapping[tuple[str, str], str]

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation as text, up to where the answer begins."""
        roles = [START, *(message.role for message in messages), ANSWER]
        texts = [*(message.text for message in messages), ""]
        return "".join(
            self.between.get(pair, "") + text
            for pair, text in zip(pairwise(roles), texts, strict=True)
        )

    def without_bos(self, bos: str) -> Turns:
        """Return the turns without a BOS token at the start, for engines that add it."""
        return Turns(
            {
                pair: text.removeprefix(bos) if pair[0] == START else text
                for pair, text in self.between.items()
            }
        )

    def to_go(self) -> str:
        """Return the template of Ollama that renders the same."""
        asked = [pair for pair in self.between if pair[1] == ANSWER]
        others = [pair for pair in self.between if pair[1] != ANSWER]
        return "\n".join(
            [
                f'{{{{- $before := "{START}" }}}}',
                "{{- range .Messages }}",
                *(self._write_go(pair, f' (eq .Role "{pair[1]}")') for pair in others),
                "{{- .Content }}",
                "{{- $before = .Role }}",
                "{{- end }}",
                *(self._write_go(pair) for pair in asked),
            ]
        )

    def _write_go(self, pair: tuple[str, str], and_role: str = "") -> str:
        """Return the action that writes the text of a pair; white space around it is dropped."""
        text = json.dumps(self.between[pair], ensure_ascii=False)  # escaped as Go does it
        test = f'(eq $before "{pair[0]}"){and_role}'
        return f"{{{{- if and {test} }}}}{{{{ {text} }}}}{{{{- end }}}}"


def find_turns(render: Render) -> Turns:
    """Return the texts that a chat template writes between messages.

    Raises:
        UsageError: it does more than that.
    """
    between = dict(_find_pieces(render, [USER, ASSISTANT, USER]))
    for roles in _MAY_BE_REFUSED:
        pieces = _find_pieces_if_taken(render, roles)
        if all(between.get(pair, text) == text for pair, text in pieces):
            between.update(pieces)
        elif SYSTEM in roles:
            raise _refusal("what it writes between two messages depends on the system message")
    turns = Turns(between)
    for messages in _probes(with_system=(START, SYSTEM) in between):
        if turns.render(messages) != render(messages):
            raise _refusal("it changes messages, or writes more than what follows from their roles")
    return turns


def _find_pieces_if_taken(
    render: Render, roles: Sequence[Role]
) -> list[tuple[tuple[str, str], str]]:
    """Return the text between each two of these roles; nothing if the template refuses them."""
    try:
        return _find_pieces(render, roles)
    except Exception:  # jinja raises what the template asks for
        return []


def _find_pieces(render: Render, roles: Sequence[Role]) -> list[tuple[tuple[str, str], str]]:
    """Return the text between each two of these roles."""
    marked = [Message(role, _MARK.format(n)) for n, role in enumerate(roles)]
    text = render(marked)
    pieces = []
    for before, message in zip([START, *roles], marked, strict=False):
        piece, found, text = text.partition(message.text)
        if not found or message.text in text:
            raise _refusal("it leaves a message out, or writes it twice, or in another order")
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
        f"ollama: the chat template cannot be written in Ollama's language, {what}",
        hint="export with --to gguf: llama-server --jinja runs the chat template itself",
    )
