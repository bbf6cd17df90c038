"""``tunesmith evaluate https://host/v1``: what is sent, what is measured, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from fake_judge import Failure, serve_judge

from tunesmith_plugins.commands.evaluate.find import NO_WEIGHTS, find_endpoint

Tunesmith = Callable[..., Result]
TOKEN = "plain" + "word" * 4
PLUGINS = "fake_plugin,evaluate,runs,full,jsonl,exact-match,loss,console"


@pytest.fixture
def ready(tunesmith: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tunesmith:
    """The command, with a file of three rows."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", PLUGINS)
    rows = [{"prompt": f"say {word}", "completion": word.upper()} for word in ("a", "b", "c")]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tunesmith


def shout(prompt: str) -> str:
    return prompt.removeprefix("say ").upper() if prompt != "say b" else "no"


def test_answers_are_measured_and_the_token_is_nowhere(
    ready: Tunesmith, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("API_KEY", TOKEN)
    options = ("--data", "rows.jsonl", "--token-variable", "API_KEY", "--out", "results")
    with serve_judge(shout, models=["large"]) as fake:
        done = ready("evaluate", fake.url, *options, "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert (report["endpoint"], report["model"], report["which"]) == (fake.url, "large", "endpoint")
    # `loss` suits the rows too, but an endpoint cannot be measured by it.
    (measured,) = report["measured"]
    assert (measured["metric"], measured["value"], measured["n"]) == ("exact-match", 2 / 3, 3)
    assert f"sending the prompts of 3 rows to {fake.url}" in done.stderr.splitlines()
    assert {body["model"] for _, body in fake.requests} == {"large"}
    assert [headers["Authorization"] for headers, _ in fake.requests] == [f"Bearer {TOKEN}"] * 3
    assert [headers["Authorization"] for headers in fake.listed] == [f"Bearer {TOKEN}"]
    rows = (tmp_path / "results" / measured["records"]).read_text().splitlines()
    assert [json.loads(row)["output"] for row in rows] == ["A", "no", "C"]
    written = [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    assert len(written) > 3 and not any(TOKEN in text for text in [done.output, *written])


def test_the_rows_evaluators_and_prompt_of_a_run(ready: Tunesmith, tmp_path: Path) -> None:
    text = (tmp_path / "run.toml").read_text().replace('"same"', '"exact-match"')
    (tmp_path / "run.toml").write_text(text + '[baselines]\nsystem_prompt = "be loud"\nuse = []\n')
    assert ready("run", "run.toml", "--out", "done").exit_code == 0
    with serve_judge(lambda prompt: "?", models=["one"]) as fake:
        done = ready("evaluate", fake.url, "--rows-of", "done", "--json")
    assert done.exit_code == 0, done.output
    report = json.loads(done.stdout)
    assert report["rows"] == 4 and report["data"] == "the test rows of done"
    (measured,) = report["measured"]
    test = (tmp_path / "done" / "evaluations" / "tuned.exact-match.jsonl").read_text()
    own = (Path(report["folder"]) / measured["records"]).read_text()
    sources = [[json.loads(line)["source"] for line in t.splitlines()] for t in (test, own)]
    assert sources[0] == sources[1]
    for _, body in fake.requests:
        assert [m["role"] for m in body["messages"]] == ["system", "user"]
        assert body["messages"][0]["content"] == "be loud"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "test rows of a run with --rows-of RUN"),
        (
            ("--data", "rows.jsonl", "--evaluator", "loss", "--evaluator", "exact-match"),
            "cannot evaluate with loss: this needs log-probabilities",
        ),
        (("--data", "rows.jsonl", "--rows-of", "."), "cannot be combined"),
        (
            ("--data", "rows.jsonl", "--base", "fake:one"),
            "--base: this option only applies to adapters",
        ),
        (("--data", "rows.jsonl", "--winner"), "needs a run folder"),
        (("--data", "rows.jsonl", "--token-variable", "sk-abc"), "not the token"),
        (
            ("--data", "rows.jsonl", "--token-variable", "NO_SUCH", "--model", "one"),
            "NO_SUCH is not set",
        ),
    ],
)
def test_refusals_send_nothing(ready: Tunesmith, options: tuple[str, ...], message: str) -> None:
    with serve_judge(shout, models=["one"]) as fake:
        done = ready("evaluate", fake.url, *options)
    assert done.exit_code in (2, 4) and message in done.stderr, done.output
    assert "sk-abc" not in done.output and not fake.requests and not fake.listed
    assert not Path("evaluations").exists()


def test_the_model_is_named_or_the_only_one(ready: Tunesmith) -> None:
    with serve_judge(shout, models=["one", "t\x1bwo"]) as fake:
        done = ready("evaluate", fake.url, "--data", "rows.jsonl")
        assert done.exit_code == 2 and "lists 2 models" in done.stderr
        wanted = "choose a model with --model NAME; available: one, t\\x1bwo"
        assert wanted in done.stderr and not fake.requests
        done = ready("evaluate", fake.url, "--data", "rows.jsonl", "--model", "two", "--json")
        assert json.loads(done.stdout)["model"] == "two" and len(fake.listed) == 1
    with serve_judge(shout) as fake:
        done = ready("evaluate", fake.url, "--data", "rows.jsonl")
        assert done.exit_code == 2 and "available: none" in done.stderr


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (Failure(400, b'{"error": {"message": "max_tokens\\u001b: too many"}}'), "max_tokens\\x1b"),
        (Failure(404, b'{"error": "model m: not found"}'), "HTTP 404: model m: not found"),
        (b"", "not a chat completion"),
    ],
)
def test_failures_of_the_endpoint(ready: Tunesmith, reply: Any, message: str) -> None:
    with serve_judge(lambda prompt: reply) as fake:
        done = ready("evaluate", fake.url, "--data", "rows.jsonl", "--model", "m")
    assert done.exit_code == 4, done.output
    assert f"error: request to the endpoint at {fake.url} failed: " in done.stderr
    assert message in done.stderr and "hint: check the address" in done.stderr
    assert "judge" not in done.stderr and "resume" not in done.stderr


def test_only_endpoints_have_models_and_tokens(ready: Tunesmith) -> None:
    for option in ("--model", "--token-variable"):
        done = ready("evaluate", "fake:one", "--data", "rows.jsonl", option, "NAME")
        assert done.exit_code == 2 and f"{option}: needs an endpoint such as" in done.stderr
    done = ready("evaluate", "https://user:word@host/v1", "--data", "rows.jsonl")
    assert done.exit_code == 2 and "without a user" in done.stderr and "word@" not in done.output


def test_an_endpoint_is_no_base_model(ready: Tunesmith, tmp_path: Path) -> None:
    text = (tmp_path / "run.toml").read_text().replace("fake:one", "https://host/v1")
    (tmp_path / "run.toml").write_text(text)
    for command in ("check", "run"):
        done = ready(command, "run.toml")
        assert done.exit_code in (2, 4) and NO_WEIGHTS in done.stderr, done.output
    assert find_endpoint("org/name") is None
