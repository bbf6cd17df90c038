"""Images in the messages of requests to ``tunesmith serve``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from openai import OpenAI
from serving import Running, run_server, text_model

from tunesmith.contracts import Generation, Progress
from tunesmith.errors import DataError
from tunesmith.records import Message, Part, Prompt, TextPart
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_plugins.commands.serve.engine import BatchedEngine, CallingEngine


@dataclass(frozen=True)
class Picture(Part):
    """An image of the tests."""

    name: str


def read_image(url: str) -> Part:
    """Return the picture that a URL names."""
    name = url.removeprefix("data:image/png;base64,")
    if name == "broken":
        raise DataError("an image", "image is damaged")
    if name == "bug":
        raise ZeroDivisionError
    return Picture(name)


class Describing(FakeTextModel):
    """Answers with the parts of the conversation."""

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> list[Generation]:
        """Describe every turn."""
        texts = ["|".join(map(_describe, prompt)) for prompt in prompts]  # type: ignore[arg-type]
        return [Generation(text, 1, "stop") for text in texts]


def _describe(message: Message) -> str:
    parts = [TextPart(message.content)] if isinstance(message.content, str) else message.content
    shown = (p.text if isinstance(p, TextPart) else f"<{p.name}>" for p in parts)  # type: ignore[attr-defined]
    return f"{message.role}:{''.join(shown)}"


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    engines = {"tuned": CallingEngine(Describing()), "text": BatchedEngine(text_model(), slots=2)}
    with run_server(engines, read_image=read_image) as opened:
        yield opened


def image(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{name}", **more}}


def text(text: str) -> dict[str, str]:
    return {"type": "text", "text": text}


def user(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"role": "user", "content": [*parts]}


@pytest.mark.parametrize("stream", [False, True])
def test_images_keep_their_places(running: Running, stream: bool) -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    turns: Any = [
        {"role": "system", "content": [text("Be "), text("brief.")]},
        user(image("a"), text("or "), image("b", detail="auto"), text("?")),
        {"role": "assistant", "content": "Wait."},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "a", "content": "done"},
        {"role": "user", "content": "Say."},
        user(image("a")),
    ]
    with running.client() as client:
        assert ask(client, turns, stream) == (
            "system:Be brief.|user:<a>or <b>?|assistant:Wait.|tool:done|user:Say.|user:<a>"
        )


def ask(client: OpenAI, turns: Any, stream: bool) -> str:
    answer: Any = client.chat.completions.create(model="tuned", messages=turns, stream=stream)
    if not stream:
        return str(answer.choices[0].message.content)
    return "".join(c.choices[0].delta.content or "" for c in answer if c.choices)


def _url(url: object) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


REFUSED: list[tuple[list[dict[str, Any]], str]] = [
    ([user(_url("http://127.0.0.1/a.png"))], "images must be data: URLs"),
    ([user(_url("https://127.0.0.1/a.png"))], "images must be data: URLs"),
    ([user(_url("file:///etc/hostname"))], "images must be data: URLs"),
    ([user(_url("/etc/hostname"))], "images must be data: URLs"),
    ([user(_url("DATA:image/png;base64,a"))], "images must be data: URLs"),
    ([user(_url(7))], "an image must be"),
    ([user({"type": "image_url", "image_url": "data:image/png;base64,a"})], "an image must be"),
    ([user({"type": "image_url"})], "an image must be"),
    ([user({"type": "image_url", "image_url": {}})], "an image must be"),
    ([user({**image("a"), "text": "both"})], "an image must be"),
    ([user(image("a", size=3))], "an image must be"),
    ([user(image("a", detail="high"))], 'only the detail "auto"'),
    ([user(image("a"), image("broken"))], "messages: image 2: image is damaged"),
    ([user(*[image("a")] * 17)], "at most 16 images, got 17"),
    ([{"role": "system", "content": [image("a")]}], "only messages of the user can have images"),
    ([user({"type": "input_audio", "input_audio": {}})], "not text"),
]


@pytest.mark.parametrize(("turns", "message"), REFUSED, ids=lambda value: str(value)[:40])
@pytest.mark.parametrize("stream", [False, True])
def test_images_that_cannot_be_used_are_refused(
    running: Running, turns: list[dict[str, Any]], message: str, stream: bool
) -> None:
    body = {"model": "tuned", "messages": turns, "stream": stream}
    answer = running.fetch("/v1/chat/completions", body)
    assert (answer.status, answer.error["param"]) == (400, "messages")
    assert message in answer.error["message"]


def test_a_failing_loader_ends_only_its_request(running: Running) -> None:
    body = {"model": "tuned", "messages": [user(image("bug"))]}
    assert running.fetch("/v1/chat/completions", body).status == 500
    body = {"model": "tuned", "messages": [user(image("a"))]}
    assert "<a>" in running.fetch("/v1/chat/completions", body).text


def test_models_of_text_refuse_images(running: Running) -> None:
    """One of several models, or a run without a loader of images."""
    body = {"model": "text", "messages": [user(image("a"))]}
    answer = running.fetch("/v1/chat/completions", body)
    assert answer.status == 400 and "only text can be used here" in answer.error["message"]
    with run_server() as other:
        answer = other.fetch("/v1/chat/completions", {**body, "model": "tuned"})
    assert answer.status == 400 and "read only text" in answer.error["message"]
