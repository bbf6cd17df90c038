"""Calls of tools in streams: the official client gets what it gets without a stream."""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai import OpenAI
from serving import run_server

from tunesmith.records import Prompt
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.commands.serve.engine import CallingEngine
from tunesmith_plugins.commands.serve.job import Job, Piece, StreamedText
from tunesmith_plugins.commands.serve.tool_answers import StreamedTurn, split_known_calls

MAIL = '{"name": "mail", "arguments": {"to": "Ünal", "when": [1, 2.5]}}'
BOOK = '{"name": "book", "parameters": {}}'
OTHER = '{"name": "other", "arguments": {}}'
TOOLS = frozenset({"mail", "book"})

ANSWERS = {
    "hermes": f"Sure.\n<tool_call>\n{MAIL}\n</tool_call>",
    "hermes, alone": f"<tool_call>\n{MAIL}\n</tool_call>",
    "hermes, two": f"<tool_call>{MAIL}</tool_call>\n<tool_call>\n{BOOK}\n</tool_call>",
    "mistral": f"[TOOL_CALLS] [{MAIL}, {BOOK}]",
    "mistral without its mark": f"[{MAIL}]",
    "llama": f"<|python_tag|>{BOOK}",
    "object of OpenAI": f'Sure! {{"function": {MAIL}}}',
    "a source in brackets": f"See [1] and [2].\n<tool_call>\n{MAIL}\n</tool_call>",
    "a source at the end": f"See [1] {MAIL}",
    "an object in front": f'Found {{"id": 3}} and {{x}}. <tool_call>{MAIL}</tool_call>',
    "reasoning": f"<think>Or {OTHER}?</think>\nYes. <tool_call>{MAIL}</tool_call>",
    "text behind": f"<tool_call>{MAIL}</tool_call> Done.",
    "another tool": f"First. {MAIL} {OTHER}",
    "cut off": f"Sure. <tool_call>{MAIL[:-3]}",
    "no call": "See [1], a {set} and <tool.",
    "JSON": '{"name": "Ann", "city": "Rome"}',
    "nothing": "",
}


class SpellingEngine(CallingEngine):
    """Answers with given texts, three characters at a time."""

    def __init__(self) -> None:
        super().__init__(FakeTextModel())
        self._pieces = deque[tuple[Job, Piece]]()

    def encode(self, prompt: Prompt | tuple[int, ...], most_tokens: int) -> tuple[int, ...]:
        """Return nothing."""
        return ()

    def step(self) -> Sequence[tuple[Job, Piece]]:
        """Return the next piece."""
        job = self._waiting[0]
        if not self._pieces:
            whole = ANSWERS[job.choice.prompt[-1].text]  # type: ignore[union-attr]
            text = StreamedText(lambda ids, _: whole[: len(ids)], job.choice.stop_words)
            for end in range(3, len(whole) + 3, 3):
                if part := text.update(range(end), is_complete=False):
                    self._pieces.append((job, Piece(0, part)))
            self._pieces.append((job, Piece(0, text.update(range(len(whole)), True), (), "stop")))
            if not job.choice.is_streamed:
                self._pieces = deque([(job, Piece(0, whole, (), "stop"))])
        found = self._pieces.popleft()
        if not self._pieces:
            self._waiting.popleft()
        return [found]


@pytest.fixture(scope="module")
def client() -> Iterator[OpenAI]:
    with run_server({"tuned": SpellingEngine()}) as running, running.client() as opened:
        yield opened


def request(prompt: str) -> Any:
    empty = {"type": "object", "properties": {}, "additionalProperties": False}
    functions = [{"name": n, "strict": True, "parameters": empty} for n in sorted(TOOLS)]
    tools = [{"type": "function", "function": function} for function in functions]
    return {
        "model": "tuned",
        "messages": [{"role": "user", "content": prompt}],
        "tools": tools,
    }


def without_ids(completion: Any) -> Any:
    """Return what a client reads from an answer, without the ids that are new in each."""
    (choice,) = completion.choices
    calls = [
        (call.type, call.function.name, call.function.arguments)
        for call in choice.message.tool_calls or []
    ]
    assert all(re.fullmatch("call_[0-9a-f]{24}", c.id) for c in choice.message.tool_calls or [])
    return choice.message.role, choice.message.content, calls, choice.finish_reason


@pytest.mark.parametrize("prompt", ANSWERS)
def test_the_official_client_reassembles_the_unstreamed_answer(client: OpenAI, prompt: str) -> None:
    whole = client.chat.completions.create(**request(prompt))
    with client.chat.completions.stream(**request(prompt)) as stream:
        streamed = stream.get_final_completion()
    assert without_ids(streamed) == without_ids(whole)


def test_the_calls_and_the_text_in_front_of_them(client: OpenAI) -> None:
    found = {p: without_ids(client.chat.completions.create(**request(p))) for p in ANSWERS}
    mail = ("function", "mail", json.dumps(json.loads(MAIL)["arguments"], ensure_ascii=False))
    book = ("function", "book", "{}")
    assert found["hermes"] == ("assistant", "Sure.", [mail], "tool_calls")
    assert found["hermes, two"] == ("assistant", None, [mail, book], "tool_calls")
    assert found["mistral"] == ("assistant", None, [mail, book], "tool_calls")
    assert found["a source in brackets"][1:3] == ("See [1] and [2].", [mail])
    assert found["a source at the end"][1:3] == ("See [1]", [mail])
    assert found["an object in front"][1:3] == ('Found {"id": 3} and {x}.', [mail])
    assert found["reasoning"][1:3] == (f"<think>Or {OTHER}?</think>\nYes.", [mail])
    for plain in ("another tool", "cut off", "no call", "JSON", "nothing"):
        assert found[plain] == ("assistant", ANSWERS[plain], [], "stop")


def test_text_comes_while_it_is_generated(client: OpenAI) -> None:
    """Only what may become a call waits for the end."""
    chunks = [*client.chat.completions.create(**request("a source in brackets"), stream=True)]
    deltas = [chunk.choices[0].delta for chunk in chunks]
    texts = [delta.content for delta in deltas if delta.content]
    assert len(texts) > 4 and "".join(texts) == "See [1] and [2]."
    (call,) = [call for delta in deltas for call in delta.tool_calls or []]
    assert call.index == 0 and call.function is not None and call.function.name == "mail"
    assert [c.choices[0].finish_reason for c in chunks if c.choices[0].finish_reason] == [
        "tool_calls"
    ]


fragments = st.sampled_from(
    [
        *("<tool_call>", "[TOOL_CALLS]", "<|python_tag|>", "</tool_call>", "<tool", "[", "]", "{"),
        *("}", " ", "\n", "a", '"', ":", "{}", '{"a": -Inf', '{"a": tr', '{"a": "b', '{"a": 1'),
        *("<think>", "</think>", MAIL, BOOK, OTHER, MAIL[:20], MAIL[20:], '{"function": ', "-1.5e"),
    ]
)


@given(st.lists(fragments, max_size=12), st.randoms(use_true_random=False))
def test_parts_are_never_taken_back(parts: list[str], random: Any) -> None:
    text, turn, sent, start = "".join(parts), StreamedTurn(TOOLS), "", 0
    while start < len(text):
        end = random.randint(start, len(text))
        sent += turn.update(text[start:end], False)[0] or ""
        start = end
    last, calls = turn.update("", True)
    assert (sent + (last or ""), calls) == split_known_calls(text, TOOLS)
