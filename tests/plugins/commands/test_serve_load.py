"""Many requests at once, and clients that leave, wait or do not read."""

from __future__ import annotations

import random
import socket
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from openai import APIError, InternalServerError
from serving import Running, SlowModel, run_server, text_model, wait_for
from torch import Tensor

from tunesmith.records import Message, Prompt
from tunesmith_plugins.commands.serve.api_error import ApiError
from tunesmith_plugins.commands.serve.engine import BatchedEngine, CallingEngine, to_api_error
from tunesmith_plugins.commands.serve.job import Channel, ChoiceInput, Job
from tunesmith_plugins.commands.serve.limits import Limits
from tunesmith_plugins.commands.serve.model_thread import ModelThread
from tunesmith_torch.generation.continuous import RunningSequence
from tunesmith_torch.generation.generate import generate
from tunesmith_torch.generation.sampling import Sampler

LONG: Any = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 400}


@dataclass(frozen=True, kw_only=True)
class WatchedSampler(Sampler):
    """Records how near each decision is to another one, as a difference of probabilities."""

    distances: list[float] = field(default_factory=list)

    def sample(self, logits_NV: Tensor, uniforms: Sequence[float]) -> tuple[Tensor, Tensor]:
        (probability_V,) = (logits_NV.double() / self.temperature).softmax(-1)
        order_V = probability_V.sort(descending=True, stable=True)
        before_V = order_V.values.cumsum(0) - order_V.values
        kept_V = probability_V
        if self.top_p < 1:
            self.distances.append(float((before_V - self.top_p).abs().min()))
            kept_V = order_V.values[before_V < self.top_p]
        sum_V = kept_V.cumsum(0)
        self.distances.append(float((sum_V - uniforms[0] * sum_V[-1]).abs().min()))
        return super().sample(logits_NV, uniforms)


def answer_alone(prompt: Prompt, limit: int, sampler: WatchedSampler | None) -> str:
    template = text_model().template
    (row,) = generate(
        text_model().model,
        [template.encode_prompt(prompt)],
        max_new_tokens=limit,
        end_ids=template.end_ids,
        sampler=sampler,
    )
    return template.decode_answer(row.ids[: -1 if row.finish_reason == "stop" else None])


def test_every_answer_is_the_one_that_the_request_gets_alone() -> None:
    """64 requests of 8 clients, greedy and sampled, streamed and whole, of any length.

    Their seeds are such that no decision is within rounding of another one: the products of a
    larger batch round in another way, which differs from processor to processor.
    """
    rng = random.Random(1)
    words = "capital France card refund ticket two seven the answer Rome".split()  # noqa: SIM905
    cases: list[tuple[dict[str, Any], str]] = []
    for number in range(64):
        text = " ".join(rng.choices(words, k=rng.randint(1, 40)))
        limit, is_greedy = rng.randint(1, 40), rng.random() < 0.5
        sampling: dict[str, Any] = {}
        prompt: Prompt = (Message("user", text),)
        if is_greedy:
            expected = answer_alone(prompt, limit, None)
        else:
            for seed in range(number, 6400, 64):
                sampling = {"temperature": 1.1, "top_p": 1.0 if number % 8 else 0.95, "seed": seed}
                sampler = WatchedSampler(**sampling)
                expected = answer_alone(prompt, limit, sampler)
                if min(sampler.distances) > 1e-6:
                    break
        messages = [{"role": "user", "content": text}]
        body = {"model": "tuned", "messages": messages, "max_tokens": limit, **sampling}
        cases.append(({**body, "stream": rng.random() < 0.5}, expected))
    with run_server(slots=6) as running:

        def work(client_number: int) -> list[tuple[str, str]]:
            with running.client() as client:
                return [
                    (read(client.chat.completions.create(**body)), expected)
                    for body, expected in cases[client_number::8]
                ]

        with ThreadPoolExecutor(8) as pool:
            pairs = [pair for found in pool.map(work, range(8)) for pair in found]
        running.wait_until_idle()
        assert running.metric("requests_total", path="/v1/chat/completions", status="200") == 64
    assert len(pairs) == 64
    assert all(answer == expected for answer, expected in pairs)
    assert len({expected for _, expected in pairs}) > 50


def read(answer: Any) -> str:
    """Return the text of an answer or of a stream."""
    if hasattr(answer, "choices"):
        return answer.choices[0].message.content or ""
    return "".join(chunk.choices[0].delta.content or "" for chunk in answer)


def hold(running: Running) -> Any:
    """Begin a long answer; return its stream."""
    stream = running.client().chat.completions.create(model="tuned", **LONG, stream=True)
    for chunk in stream:
        if chunk.choices[0].delta.content:
            return stream
    raise AssertionError("the answer has no text")


def test_a_cancelled_stream_frees_its_slot() -> None:
    steps = list[None]()

    def slow_down(*_: object) -> None:
        steps.append(time.sleep(0.01))

    hook = text_model().model.register_forward_pre_hook(slow_down)
    with run_server(slots=1) as running:
        stream = hold(running)
        assert running.metric("running_answers", model="tuned") == 1
        stream.close()
        running.wait_until_idle()
        hook.remove()
        assert len(steps) < 300, "it was not generated to its end, after 400 tokens"
        assert running.metric("cancelled_answers_total", model="tuned") == 1
        assert running.metric("generated_tokens_total", model="tuned") == 0, "it did not finish"


def test_a_client_that_leaves_frees_its_slot_without_a_stream() -> None:
    with run_server(slots=1) as running:
        host, port = running.address.removeprefix("http://").split(":")
        body = b'{"model": "tuned", "messages": [{"role": "user", "content": "hello"}]}'
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            wait_for(lambda: running.metric("running_answers", model="tuned") == 1)
        running.wait_until_idle()
        assert running.metric("cancelled_answers_total", model="tuned") == 1
        assert running.metric("requests_total", path="/v1/chat/completions", status="499") == 1


def test_a_slow_reader_blocks_nobody() -> None:
    """Its answer is generated to the end and waits for it; others are answered meanwhile."""
    with run_server(slots=8, send_buffer=8192) as running, running.client() as client:
        host, port = running.address.removeprefix("http://").split(":")
        body = (
            b'{"model": "tuned", "messages": [{"role": "user", "content": "hello"}], '
            b'"max_tokens": 60, "n": 8, "logprobs": true, "top_logprobs": 20, "stream": true}'
        )
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            answer = client.chat.completions.create(
                model="tuned", **{**LONG, "max_tokens": 3}, timeout=30
            )
            assert answer.usage is not None and answer.usage.completion_tokens == 3
            wait_for(lambda: running.metric("running_answers", model="tuned") == 0, 60)
            assert running.metric("open_requests") == 1, "it is still being sent"
        running.wait_until_idle()


def test_a_reader_that_stops_for_too_long_is_given_up() -> None:
    limits = Limits(slots=8, send_seconds=0.3)
    with run_server(limits=limits, slots=8, send_buffer=8192) as running:
        host, port = running.address.removeprefix("http://").split(":")
        body = (
            b'{"model": "tuned", "messages": [{"role": "user", "content": "hello"}], '
            b'"max_tokens": 60, "n": 8, "logprobs": true, "top_logprobs": 20, "stream": true}'
        )
        with socket.socket() as connection:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.connect((host, int(port)))
            connection.sendall(
                b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
                % (len(body), body)
            )
            path = "/v1/chat/completions"
            wait_for(lambda: running.metric("requests_total", path=path, status="499") == 1, 60)
            running.wait_until_idle()


def test_a_full_queue_refuses_with_the_time_to_come_back() -> None:
    slow = SlowModel()
    limits = Limits(slots=1, queue=1)
    with run_server({"tuned": CallingEngine(slow)}, limits=limits) as running:
        messages: Any = [{"role": "user", "content": "hello"}]
        with ThreadPoolExecutor(2) as pool, running.client() as client:

            def ask() -> str:
                answer = client.chat.completions.create(model="tuned", messages=messages)
                return answer.choices[0].message.content or ""

            first = [pool.submit(ask) for _ in range(2)]
            wait_for(lambda: running.metric("open_requests") == 2)
            with pytest.raises(InternalServerError, match="the queue is full") as refused:
                ask()
            assert refused.value.status_code == 503
            assert int(refused.value.response.headers["retry-after"]) >= 1
            slow.may_answer.set()
            assert [future.result() for future in first] == ["Hi", "Hi"]
            assert ask() == "Hi", "there is room again"


def test_the_time_of_a_request_is_limited() -> None:
    slow = SlowModel()
    limits = Limits(slots=1, seconds=0.2)
    with run_server({"tuned": CallingEngine(slow)}, limits=limits) as running:
        with running.client() as client:
            for stream in (False, True):
                with pytest.raises(APIError, match=r"within 0\.2"):
                    answer = client.chat.completions.create(
                        model="tuned", messages=LONG["messages"], stream=stream
                    )
                    read(answer)
        slow.may_answer.set()
        running.wait_until_idle()


def test_a_model_that_fails_answers_the_next_request(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with run_server() as running, running.client() as client:
        with monkeypatch.context() as patch:
            patch.setattr("tunesmith_torch.generation.continuous.decode_rows", lambda *_: 1 / 0)
            with pytest.raises(InternalServerError, match="the model failed"):
                client.chat.completions.create(model="tuned", **LONG)
        answer = client.chat.completions.create(model="tuned", **{**LONG, "max_tokens": 5})
        assert answer.usage is not None and answer.usage.completion_tokens == 5
    assert "ZeroDivisionError" in capfd.readouterr().err


def test_the_thread_ends_with_jobs_in_it() -> None:
    import asyncio

    thread = ModelThread({"tuned": BatchedEngine(text_model(), slots=1)})
    loop = asyncio.new_event_loop()
    thread.start(loop)
    choice = ChoiceInput(
        index=0, prompt="", ids=(5,), max_tokens=400, temperature=0, top_p=1, seed=0, stream=0
    )
    thread.submit("tuned", thread.engines["tuned"], [Job(choice, Channel())])
    thread.stop(20)
    assert not thread.is_alive
    loop.close()


def test_errors_that_are_the_client_s_are_shown() -> None:
    from tunesmith.errors import UsageError

    assert to_api_error(UsageError("cannot sample")).status == 400
    assert to_api_error(ValueError("secret")).message.startswith("the model failed")
    assert ApiError(503, "x").kind == "overloaded_error"
    assert RunningSequence([1], max_new_tokens=1).most_tokens == 2
