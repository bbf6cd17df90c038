"""An endpoint that speaks OpenAI's chat completions: requests, tokens, failures."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from fake_judge import serve_judge

from tunesmith.errors import EnvironmentProblem
from tunesmith_evidence.judging.endpoint import Endpoint

TOKEN = "sk-" + "secret" * 5


def test_prompts_are_answered_in_their_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    with serve_judge(lambda prompt: prompt.upper()) as fake:
        endpoint = Endpoint(fake.url, "m", "JUDGE_TOKEN")
        assert endpoint.ask([f"p{n}" for n in range(9)]) == [f"P{n}" for n in range(9)]
    headers, body = fake.requests[0]
    assert headers["Authorization"] == f"Bearer {TOKEN}" and TOKEN not in repr(endpoint)
    assert body["model"] == "m" and body["temperature"] == 0 and body["max_tokens"] < 20


def test_a_missing_token_is_named_before_anything_is_sent(monkeypatch: Any) -> None:
    monkeypatch.delenv("JUDGE_TOKEN", raising=False)
    with serve_judge(lambda prompt: "A") as fake:
        with pytest.raises(EnvironmentProblem, match="JUDGE_TOKEN is not set"):
            Endpoint(fake.url, "m", "JUDGE_TOKEN").ask(["p"])
        Endpoint(fake.url, "m").ask(["p"])
    assert len(fake.requests) == 1 and "Authorization" not in fake.requests[0][0]


def test_a_busy_endpoint_is_asked_again() -> None:
    asked: Counter[str] = Counter()

    def busy(prompt: str) -> str | int:
        asked[prompt] += 1
        return "A" if asked[prompt] > 2 else 503

    with serve_judge(busy) as fake:
        assert Endpoint(fake.url, "m", pause=0.0).ask(["p", "q"]) == ["A", "A"]
    assert asked == {"p": 3, "q": 3}


@pytest.mark.parametrize(
    ("reply", "message", "requests"),
    [
        (401, "HTTP 401", 1),
        (302, "HTTP 302", 1),
        (500, "HTTP 500", 3),
        (b"<html>", "no chat completion", 1),
        (b"{}", "no chat completion", 1),
        (b"[]", "no chat completion", 1),
    ],
)
def test_failures_name_the_endpoint_and_never_the_token(
    monkeypatch: pytest.MonkeyPatch, reply: Any, message: str, requests: int
) -> None:
    monkeypatch.setenv("JUDGE_TOKEN", TOKEN)
    with (
        serve_judge(lambda prompt: reply) as fake,
        pytest.raises(EnvironmentProblem, match=message) as caught,
    ):
        Endpoint(fake.url, "m", "JUDGE_TOKEN", pause=0.0).ask(["p"])
    assert fake.url in str(caught.value) and len(fake.requests) == requests
    assert TOKEN not in str(caught.value) and caught.value.__cause__ is None


def test_an_endpoint_that_is_not_there() -> None:
    with serve_judge(lambda prompt: "A") as fake:
        pass
    with pytest.raises(EnvironmentProblem, match="cannot be asked"):
        Endpoint(fake.url, "m", pause=0.0).ask(["p"])
