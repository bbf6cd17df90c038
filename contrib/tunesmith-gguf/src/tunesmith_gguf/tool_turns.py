"""Find out how a chat template writes tools, by rendering marked tools and verifying on others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace

from tunesmith.records import Message, ToolCall
from tunesmith_gguf.turns import (
    ANSWER,
    ASSISTANT,
    CALL,
    START,
    SYSTEM,
    TOOL,
    USER,
    Opening,
    Pair,
    Render,
    ToolTurns,
    Turns,
    dump_json,
)


class ToolsSkippedError(Exception):
    """Raised if Ollama's templates cannot express how the chat template writes tools."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"the Modelfile's template does not include tools: the chat template {what}"
        )


_ARGUMENTS = {"qzxkeyxzq": "qzxvaluexzq"}
_INDENTS = (None, 4, 2)


def _define(name: str) -> str:
    properties = {"city": {"type": "string", "description": "A city, of any size."}}
    parameters = {"type": "object", "properties": properties, "required": ["city"]}
    function = {"name": name, "description": f"Is {name}.", "parameters": parameters}
    return json.dumps({"type": "function", "function": function})


DEFINITIONS = (_define("qzxfirstxzq"), _define("qzxsecondxzq"))


def add_tools(turns: Turns, render: Render) -> Turns:
    """Return the turns, including the text that the chat template writes for tools, if any.

    Raises:
        ToolsSkippedError: Ollama's templates cannot express how tools are written.
    """
    question = Message(USER, "qzx0xzq")
    with_tools = [replace(question, tools=DEFINITIONS)]
    if render(with_tools) == render([question]):
        return turns
    opening, with_type, indent = _find_openings(turns, render)
    between, middle, name_first = _find_calls(turns, render)
    found = _find_mark(turns, between)
    tools = ToolTurns(opening, with_type, indent, found, middle, name_first, False)
    for as_json in (False, True):
        candidate = _strip_quotes(Turns(between, replace(tools, results_as_json=as_json)))
        if all(_renders_alike(candidate, render, messages) for messages in _probes(between)):
            return candidate
    raise ToolsSkippedError("writes tool calls or results in an unsupported format")


def _renders_alike(turns: Turns, render: Render, messages: Sequence[Message]) -> bool:
    return turns.render(messages) == render(messages)


def _find_openings(turns: Turns, render: Render) -> tuple[dict[Pair, Opening], bool, int | None]:
    """Return the opening texts with tools, and the format of a definition."""
    texts: dict[Pair, str] = {}
    for kinds in ((USER,), (SYSTEM, USER)):
        if (START, kinds[0]) not in turns.between:
            continue
        marked = [Message(kind, f"qzx{n}xzq") for n, kind in enumerate(kinds)]
        text = render([replace(marked[0], tools=DEFINITIONS), *marked[1:]])
        for before, message in zip([START, *kinds], marked, strict=False):
            texts[before, message.role], found, text = text.partition(message.text)
            if not found:
                raise ToolsSkippedError("drops a message if there are tools")
        texts[kinds[-1], ANSWER] = text
    changed = {pair: text for pair, text in texts.items() if text != turns.between.get(pair)}
    for with_type in (True, False):
        for indent in _INDENTS:
            opening = {
                pair: _split_definitions(text, with_type, indent) for pair, text in changed.items()
            }
            if _has_all(opening):
                return opening, with_type, indent
    raise ToolsSkippedError("writes tool definitions in an unsupported format")


def _has_all(opening: dict[Pair, Opening]) -> bool:
    """Return True if definitions are written both with and without a system message."""
    for start in {pair[1] for pair in opening if pair[0] == START}:
        path = [(START, start)] if start == USER else [(START, start), (start, USER)]
        if not any(pair in opening and opening[pair].has_definitions for pair in path):
            return False
    return bool(opening) and all(pair[1] != ANSWER for pair in opening)


def _split_definitions(text: str, with_type: bool, indent: int | None) -> Opening:
    tools = [json.loads(definition) for definition in DEFINITIONS]
    written = [dump_json(t if with_type else t["function"], indent) for t in tools]
    before, found, rest = text.partition(written[0])
    between, found_too, after = rest.partition(written[1])
    if not (found and found_too):
        return Opening(text)
    return Opening(before, between, after, has_definitions=True)


def _find_calls(turns: Turns, render: Render) -> tuple[dict[Pair, str], str, bool]:
    """Return all texts between two turns, and the format of a call."""
    between = dict(turns.between)
    calls = [ToolCall(f"qzxname{n}xzq", dump_json(_ARGUMENTS)) for n in range(2)]
    one, two = (Message(ASSISTANT, "", tool_calls=tuple(calls[: n + 1])) for n in range(2))
    results = [Message(TOOL, f"qzxresult{n}xzq") for n in range(2)]
    question, other = Message(USER, "qzxquestionxzq"), Message(USER, "qzxotherxzq")
    said = Message(ASSISTANT, "qzxsaidxzq")
    middle, name_first = _find_middle(render([question, one, results[0]]))
    called = [question, one, results[0]]
    chats = [
        [*called, said, other],
        [*called, other],
        called,
        [*called, one, results[1]],
        [question, two, *results],
    ]
    both = [question, replace(one, content=said.text), results[0]]
    if render(both) != render(called):  # Otherwise it drops text next to a call.
        chats.append(both)
    for chat in chats:
        text = _render_if_taken(render, chat)
        if text is not None:
            literals = list(_list_literals(chat, middle, name_first))
            between.update(_cut(text, literals, between))
    if (TOOL, ANSWER) not in between:
        raise ToolsSkippedError("does not accept tool results")
    return between, middle, name_first


def _render_if_taken(render: Render, chat: Sequence[Message]) -> str | None:
    try:
        return render(chat)
    except Exception:  # Templates can raise any error.
        return None


def _find_middle(text: str) -> tuple[str, bool]:
    """Return the text between a call's name and arguments, and True if the name comes first."""
    parts = ["qzxname0xzq", dump_json(_ARGUMENTS)]
    at = [text.find(part) for part in parts]
    if min(at) < 0:
        raise ToolsSkippedError("writes tool calls in an unsupported format")
    first, second = (0, 1) if at[0] < at[1] else (1, 0)
    return text[at[first] + len(parts[first]) : at[second]], first == 0


def _list_literals(
    chat: Sequence[Message], middle: str, name_first: bool
) -> Iterator[tuple[str, str]]:
    for message in chat:
        if message.text:
            yield message.role, message.text
        for call in message.tool_calls:
            parts = [call.name, call.arguments]
            yield CALL, middle.join(parts if name_first else parts[::-1])


def _cut(text: str, literals: list[tuple[str, str]], known: dict[Pair, str]) -> dict[Pair, str]:
    """Return the texts between the parts of a conversation.

    Raises:
        ToolsSkippedError: a part is missing, or a text depends on more than its neighbors.
    """
    pieces: dict[Pair, str] = {}
    kind = START
    for next_kind, literal in literals:
        piece, found, text = text.partition(literal)
        if not found:
            raise ToolsSkippedError(f"skips a part of a conversation with tools: {next_kind}")
        _add(pieces, (kind, next_kind), piece, known)
        kind = next_kind
    _add(pieces, (kind, ANSWER), text, known)
    return pieces


def _add(pieces: dict[Pair, str], pair: Pair, text: str, known: dict[Pair, str]) -> None:
    if pieces.get(pair, known.get(pair, text)) != text:
        raise ToolsSkippedError(
            f"writes text between {pair[0]} and {pair[1]} that depends on more than these two"
        )
    pieces[pair] = text


def _find_mark(turns: Turns, between: dict[Pair, str]) -> str:
    """Return the text that starts an answer with a tool call."""
    asked = turns.between[USER, ANSWER]
    if not between[USER, CALL].startswith(asked):
        raise ToolsSkippedError(
            "puts text before a tool call, which must begin the assistant's answer"
        )
    mark = between[USER, CALL].removeprefix(asked)
    to_calls = [text for pair, text in between.items() if pair[1] == CALL and pair[0] != CALL]
    while "{{" in mark:
        mark = mark[mark.index("{{") + 1 :]
    if not all(text.endswith(mark) for text in to_calls):
        raise ToolsSkippedError("does not always start a tool call with the same text")
    return mark


def _strip_quotes(turns: Turns) -> Turns:
    """Return the turns without the quotation marks that JSON results already contain."""
    if turns.tools is None or not turns.tools.results_as_json:
        return turns
    return replace(
        turns,
        between={
            pair: text.removesuffix('"') if pair[1] == TOOL else text
            for pair, text in (
                (pair, text.removeprefix('"') if pair[0] == TOOL else text)
                for pair, text in turns.between.items()
            )
        },
    )


def _probes(between: dict[Pair, str]) -> Iterator[list[Message]]:
    """Yield test conversations with tools, of the kinds that the template accepts."""
    texts = ("Is it < 3 & dry?", 'Say "{{ it }}"\\n.', '{"rain": false, "in": "Gräz"}', "a\n\nb")
    calls = [
        ToolCall(f"tool_{n}", dump_json({"city": text, "n": n})) for n, text in enumerate(texts)
    ]
    tools = (_define("tool_0"), _define("tool_1"), _define("tool_2"))
    begin = [Message(USER, texts[0])]
    chats = [begin]
    for call, text in zip(calls, texts, strict=True):
        called = [*begin, Message(ASSISTANT, "", tool_calls=(call,)), Message(TOOL, text)]
        chats += [called, [*called, Message(ASSISTANT, text), Message(USER, texts[1])]]
    if (CALL, CALL) in between and (TOOL, TOOL) in between:
        both = Message(ASSISTANT, "", tool_calls=tuple(calls[:3]))
        chats.append([*begin, both, *(Message(TOOL, text) for text in texts[:3])])
    if (ASSISTANT, CALL) in between:
        said = Message(ASSISTANT, "Wait.", tool_calls=(calls[0],))
        chats.append([*begin, said, Message(TOOL, texts[2])])
    for chat in chats:
        yield [replace(chat[0], tools=tools), *chat[1:]]
        if (START, SYSTEM) in between:
            yield [Message(SYSTEM, "Be brief.", tools=tools), *chat]
