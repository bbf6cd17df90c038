"""The API of ``tunesmith serve``, as the official client of OpenAI sees it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from openai import BadRequestError, NotFoundError, OpenAI
from serving import Running, run_server, text_model

from tunesmith.contracts import Generation
from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.commands.serve.engine import BatchedEngine, CallingEngine
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler

QUESTION: Any = [{"role": "user", "content": "What is the capital of Spain?"}]
PROMPT = (Message("user", "What is the capital of Spain?"),)
CALL = '<tool_call>\n{"name": "mail", "arguments": {"to": "Ann"}}\n</tool_call>'
TOOL: Any = {"type": "function", "function": {"name": "mail", "parameters": {"type": "object"}}}


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    calls = FakeTextModel(answers={"write": f"Sure. {CALL}", "hello": "Hi"})
    engines = {"tuned": BatchedEngine(text_model(), slots=4), "winner": CallingEngine(calls)}
    with run_server(engines) as opened:
        yield opened


@pytest.fixture(scope="module")
def client(running: Running) -> Iterator[OpenAI]:
    with running.client() as opened:
        yield opened


def alone(limit: int = 20) -> Generation:
    return text_model().generate([PROMPT], limit)[0]


def test_models(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["tuned", "winner"]
    assert client.models.retrieve("tuned").owned_by == "tunesmith"
    with pytest.raises(NotFoundError, match="available: tuned, winner"):
        client.models.retrieve("other")


def test_a_conversation_gets_the_greedy_answer_of_the_model(client: OpenAI) -> None:
    answer = client.chat.completions.create(model="tuned", messages=QUESTION, max_tokens=20)
    (choice,) = answer.choices
    assert choice.message.content == alone().text
    assert choice.message.role == "assistant"
    assert choice.finish_reason == alone().finish_reason
    assert answer.usage is not None
    assert answer.usage.completion_tokens == alone().tokens
    assert answer.usage.prompt_tokens == len(text_model().template.encode_prompt(PROMPT))
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + alone().tokens


def test_a_stream_is_the_same_answer(client: OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="tuned",
            messages=QUESTION,
            max_completion_tokens=20,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    *parts, last = chunks
    assert "".join(c.choices[0].delta.content or "" for c in parts) == alone().text
    assert parts[0].choices[0].delta.role == "assistant"
    assert parts[-1].choices[0].finish_reason == alone().finish_reason
    assert len(parts) > 5, "it comes in parts"
    assert last.usage is not None and last.usage.completion_tokens == alone().tokens
    assert not last.choices and len({chunk.id for chunk in chunks}) == 1


@pytest.mark.parametrize("stream", [False, True])
def test_samples_are_those_of_the_seed(client: OpenAI, stream: bool) -> None:
    """The same as alone, for each of several answers."""
    settings: Any = {"temperature": 1.2, "top_p": 0.9, "seed": 7, "n": 3}
    answer: Any = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=15, stream=stream, **settings
    )
    texts = ["", "", ""]
    if stream:
        for chunk in answer:
            for choice in chunk.choices:
                texts[choice.index] += choice.delta.content or ""
    else:
        texts = [choice.message.content for choice in answer.choices]
    ids = text_model().template.encode_prompt(PROMPT)
    sampler = Sampler(temperature=1.2, top_p=0.9, seed=7)
    expected = generate(
        text_model().model,
        [ids] * 3,
        max_new_tokens=15,
        end_ids=text_model().template.end_ids,
        sampler=sampler,
    )
    decode = text_model().template.decode_answer
    assert texts == [
        decode(row.ids[:-1] if row.finish_reason == "stop" else row.ids) for row in expected
    ]
    assert len(set(texts)) == 3


def test_without_a_seed_samples_differ(client: OpenAI) -> None:
    texts = {
        client.chat.completions.create(
            model="tuned", messages=QUESTION, max_tokens=20, temperature=1
        )
        .choices[0]
        .message.content
        for _ in range(3)
    }
    assert len(texts) > 1


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_ends_before_a_stop_word(client: OpenAI, stream: bool) -> None:
    whole = alone().text
    start = len(whole) // 2
    word = whole[start : start + 3]
    answer: Any = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=20, stop=["never this", word], stream=stream
    )
    if stream:
        chunks = [chunk.choices[0] for chunk in answer]
        text = "".join(choice.delta.content or "" for choice in chunks)
        reason = chunks[-1].finish_reason
    else:
        text, reason = answer.choices[0].message.content, answer.choices[0].finish_reason
        assert answer.usage.completion_tokens < alone().tokens
    assert text == whole[: whole.index(word)]
    assert reason == "stop"


def test_log_probabilities(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=20, logprobs=True, top_logprobs=3
    )
    assert answer.choices[0].logprobs is not None
    content = answer.choices[0].logprobs.content
    assert content is not None
    scores = text_model().score_generations([PROMPT], [alone()])[0].logprobs
    found = [token.logprob for token in content]
    assert found == pytest.approx(scores[: len(found)], abs=1e-4)
    assert len(found) == alone().tokens - (alone().finish_reason == "stop")
    for token in content:
        assert token.top_logprobs[0].logprob == token.logprob, "greedy is the best"
        assert len(token.top_logprobs) == 3
        assert token.bytes is None or bytes(token.bytes).decode() == token.token
    chunks = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=20, logprobs=True, stream=True
    )
    streamed = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs]
    assert [t.logprob for part in streamed for t in part.content or []] == pytest.approx(found)


def test_log_probabilities_end_with_the_text(client: OpenAI) -> None:
    whole = alone().text
    word = whole[len(whole) // 2 :][:3]
    answer = client.chat.completions.create(
        model="tuned", messages=QUESTION, max_tokens=20, stop=word, logprobs=True
    )
    choice = answer.choices[0]
    assert choice.logprobs is not None and choice.logprobs.content is not None
    text = "".join(token.token for token in choice.logprobs.content)
    assert text.startswith(choice.message.content or "")
    assert len(text) < len(whole)


def test_completions_of_texts_and_of_ids(client: OpenAI) -> None:
    texts = ["The capital of", "My card"]
    ids = [text_model().template.encode_prompt(text) for text in texts]
    expected = [
        text_model().template.tokenizer.decode(row.ids, skip_special_tokens=True)
        for row in generate(
            text_model().model, ids, max_new_tokens=9, end_ids=text_model().template.end_ids
        )
    ]
    for prompt in (texts, ids):
        answer = client.completions.create(model="tuned", prompt=prompt, max_tokens=9)
        assert [choice.text for choice in answer.choices] == expected
        assert [choice.index for choice in answer.choices] == [0, 1]
    one = client.completions.create(model="tuned", prompt=texts[0], logprobs=2)
    scores: Any = one.choices[0].logprobs
    assert one.usage is not None and one.usage.completion_tokens == 16 == len(scores.tokens)
    assert scores.text_offset[0] == 0 and scores.text_offset[1] == len(scores.tokens[0])
    assert all(len(top) <= 2 for top in scores.top_logprobs)
    stream = client.completions.create(model="tuned", prompt=texts[0], max_tokens=9, stream=True)
    assert "".join(chunk.choices[0].text for chunk in stream) == expected[0]


def test_tools_are_in_the_prompt_and_calls_in_the_answer(client: OpenAI) -> None:
    with_tool: Any = {"model": "tuned", "messages": QUESTION, "max_tokens": 5, "tools": [TOOL]}
    assert (
        client.chat.completions.create(**with_tool).usage.prompt_tokens  # type: ignore[union-attr]
        > client.chat.completions.create(**with_tool, tool_choice="none").usage.prompt_tokens
    )
    ask: Any = {"model": "winner", "messages": [{"role": "user", "content": "write"}]}
    answer = client.chat.completions.create(**ask, tools=[TOOL])
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls" and choice.message.content == "Sure."
    (call,) = choice.message.tool_calls or []
    assert call.type == "function"
    assert call.function.name == "mail" and json.loads(call.function.arguments) == {"to": "Ann"}
    chunks = list(client.chat.completions.create(**ask, tools=[TOOL], stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    (streamed,) = [c for delta in deltas for c in delta.tool_calls or []]
    assert streamed.function is not None and streamed.function.name == "mail"
    assert chunks[-1].choices[0].finish_reason == "tool_calls"
    other: Any = {"type": "function", "function": {"name": "other"}}
    plain = client.chat.completions.create(**ask, tools=[other]).choices[0]
    assert plain.finish_reason == "stop" and plain.message.content == f"Sure. {CALL}"


def test_calls_and_results_go_back_into_the_conversation(client: OpenAI) -> None:
    call: Any = {"id": "a", "type": "function", "function": {"name": "mail", "arguments": "{}"}}
    turns: Any = [
        *QUESTION,
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "sent"},
    ]
    answer = client.chat.completions.create(
        model="tuned", messages=turns, tools=[TOOL], max_tokens=3
    )
    assert answer.usage is not None and answer.usage.completion_tokens == 3


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"frequency_penalty": 0.5}, "frequency_penalty", "this value is not supported"),
    ({"logit_bias": {"5": 1}}, "logit_bias", "not supported"),
    ({"response_format": {"type": "json_object"}}, "response_format", "not supported"),
    ({"repetition_penalty": 1.0}, "repetition_penalty", "unknown parameter"),
    ({"tool_choice": "required", "tools": [TOOL]}, "tool_choice", "cannot be forced"),
    ({"tools": [{"type": "function"}]}, "tools", "without the tool's name"),
    ({"temperature": -1}, "temperature", "greater than or equal to 0"),
    ({"temperature": "hot"}, "temperature", "valid number"),
    ({"top_p": 0}, "top_p", "greater than 0"),
    ({"n": 9}, "n", "at most 8"),
    ({"max_tokens": 0}, "max_tokens", "greater than or equal to 1"),
    ({"max_tokens": 5000}, "max_tokens", "at most 1024"),
    ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens", "different values"),
    ({"top_logprobs": 3}, "top_logprobs", "needs logprobs"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"messages": []}, "messages", "at least 1 item"),
    ({"messages": [{"role": "king", "content": "x"}]}, "messages", "'system', 'developer'"),
    ({"messages": [{"role": "user", "content": None}]}, "messages", "null, not text"),
    (
        {"messages": [{"role": "user", "content": [{"type": "input_audio", "url": "x"}]}]},
        "messages",
        "not text",
    ),
    ({"max_tokens": 500}, "", "no room for 500 more"),
    ({"messages": [{"role": "user", "content": "long " * 900}]}, "", "context of 512 tokens"),
]


@pytest.mark.parametrize(("change", "param", "message"), REFUSED, ids=lambda value: str(value)[:30])
def test_what_cannot_be_obeyed_is_refused(
    running: Running, change: dict[str, Any], param: str, message: str
) -> None:
    body = {"model": "tuned", "messages": QUESTION, "max_tokens": 5, **change}
    answer = running.fetch("/v1/chat/completions", body)
    assert answer.status == 400
    error = answer.error
    assert error["type"] == "invalid_request_error"
    assert error["param"] == (param or None)
    assert message in error["message"]


def test_values_without_effect_are_accepted(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="tuned",
        messages=QUESTION,
        max_tokens=20,
        frequency_penalty=0,
        presence_penalty=0.0,
        logit_bias={},
        n=1,
        response_format={"type": "text"},
        user="someone",
        seed=None,
        stop=None,
    )
    assert answer.choices[0].message.content == alone().text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"{", "not valid JSON"),
        (b"[1]", "must be a JSON object"),
        (b'{"model": NaN}', "not valid JSON"),
        (b"\xff", "not valid JSON"),
        (b"[" * 5000, "not valid JSON"),
        (b"{}", "model: field required"),
    ],
)
def test_bodies_that_are_no_request(running: Running, text: bytes, message: str) -> None:
    for path in ("chat/completions", "completions"):
        answer = running.fetch(f"/v1/{path}", text)
        assert answer.status == 400 and message in answer.error["message"]


def test_other_paths_and_methods(running: Running) -> None:
    assert running.fetch("/nothing").error["message"].endswith("not found")
    answer = running.fetch("/v1/chat/completions")
    assert answer.status == 405 and answer.error["type"] == "invalid_request_error"
    assert json.loads(running.fetch("/health").text) == {"status": "ok"}


def test_any_text_model_can_be_served(client: OpenAI) -> None:
    """One that is no network, such as a classifier that won a run."""
    hello: Any = [{"role": "user", "content": "hello"}]
    answer = client.chat.completions.create(model="winner", messages=hello, stop="i")
    assert answer.choices[0].message.content == "H"
    with pytest.raises(BadRequestError, match="this model does not"):
        client.chat.completions.create(model="winner", messages=hello, logprobs=True)
    with pytest.raises(BadRequestError, match="does not accept token ids"):
        client.completions.create(model="winner", prompt=[1, 2])


def test_ids_that_the_model_lacks(client: OpenAI) -> None:
    with pytest.raises(BadRequestError, match="outside the model's vocabulary"):
        client.completions.create(model="tuned", prompt=[1, 5000])


def test_metrics_have_the_form_of_prometheus(running: Running, client: OpenAI) -> None:
    before = running.metric("generated_tokens_total", model="tuned")
    client.chat.completions.create(model="tuned", messages=QUESTION, max_tokens=20)
    text = running.fetch("/metrics").text
    assert re.search(r'^tunesmith_running_answers\{model="tuned"\} 0\.0$', text, re.MULTILINE)
    assert running.metric("generated_tokens_total", model="tuned") == before + alone().tokens
    assert 'tunesmith_requests_total{path="/v1/chat/completions",status="200"}' in text


def test_the_page_loads_nothing_from_elsewhere(running: Running) -> None:
    answer = running.fetch("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "://" not in answer.text and "innerHTML" not in answer.text
    assert answer.headers["x-content-type-options"] == "nosniff"
