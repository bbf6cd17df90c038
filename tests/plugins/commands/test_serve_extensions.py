"""Extensions of ``tunesmith serve``: they choose models, observe answers, and disturb nobody."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any

import pytest
import tomli_w
import torch
from bench import catalog_of, offering
from generation_cases import varied_model
from pydantic import Field
from serving import TOOLS_TEMPLATE, Running, SlowModel, run_server, text_model, wait_for
from shift_adapters import add_shift_adapters

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.contracts import TextModel
from tunesmith.errors import ConfigError, UsageError
from tunesmith.execution.execute import load_report
from tunesmith.offers import ServeExtensionOffer
from tunesmith.options import Options
from tunesmith.records import Message
from tunesmith.testing.fakes import FakeTextModel
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_evidence.review.policy import ReviewPolicy
from tunesmith_plugins.commands.serve import extensions
from tunesmith_plugins.commands.serve.api_request import ChatRequest, read_request
from tunesmith_plugins.commands.serve.engine import BatchedEngine, CallingEngine
from tunesmith_plugins.commands.serve.extensions import Extension, open_extensions
from tunesmith_plugins.commands.serve.job import Channel, Piece, TokenScore
from tunesmith_plugins.commands.serve.limits import Limits
from tunesmith_plugins.commands.serve.responses import Responses
from tunesmith_plugins.commands.serve.run_models import open_engines
from tunesmith_plugins.commands.serve.service import OpenRequest
from tunesmith_torch.data.templates import Template
from tunesmith_torch.generation.adapted_model import AdaptedModel
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.testing.tiny_model import build_tiny_tokenizer


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Observers do not wait for more answers."""
    monkeypatch.setattr(extensions, "SECONDS_BETWEEN", 0.01)


ASKED = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


class UserOptions(Options):
    """Options of the extension."""

    header: str = Field("x-user", description="Header with the user's name.")
    models: dict[str, str] = Field({}, description="Model by user.")


class Users(ServeExtension):
    """Chooses the model of a user, and keeps what it observes."""

    def __init__(self, options: UserOptions) -> None:
        self.options = options
        self.seen: list[tuple[ServedRequest, ServedAnswer]] = []

    def choose(self, request: ServedRequest) -> str | None:
        user = request.headers.get(self.options.header)
        if user == "mallory":
            raise UsageError("this user has no model")
        return self.options.models.get(user or "")

    def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
        self.seen.append((request, answer))


def extension_of(kind: Callable[[Any], ServeExtension], name: str = "users", **options: Any) -> Any:
    """Return an extension in use, and the object behind it."""
    built: list[ServeExtension] = []

    def build(config: UserOptions) -> ServeExtension:
        built.append(kind(config))
        return built[-1]

    fields = {"headers": lambda config: ["X-User", "Authorization", "x-api-key"]}
    offer = ServeExtensionOffer(
        name=name, summary="users", config=UserOptions, build=build, **{**fields, **options}
    )
    catalog = catalog_of(users=offering("serve_extensions", offer))
    (found,) = open_with(catalog, {name: {"models": {"eve": "other"}}})
    return found, built[0]


def open_with(catalog: Catalog, tables: Mapping[str, Any]) -> list[Extension]:
    with TemporaryDirectory() as folder:
        file = Path(folder) / "extensions.toml"
        file.write_text(tomli_w.dumps(tables), encoding="utf-8")
        return open_extensions(catalog, file)


@cache
def other_model() -> TorchTextModel:
    """Return another tiny model."""
    torch.manual_seed(7)
    model = varied_model("llama", vocab_size=512)
    with torch.no_grad():
        for weights in model.parameters():
            weights.mul_(-1.5)
    template = Template.from_tokenizer(build_tiny_tokenizer(template=TOOLS_TEMPLATE))
    return TorchTextModel(model, template, torch.device("cpu"))


def two_models() -> dict[str, Any]:
    return {
        "tuned": BatchedEngine(text_model(), slots=4),
        "other": BatchedEngine(other_model(), slots=4),
    }


def ask(running: Running, headers: Mapping[str, str] | None = None, **body: Any) -> dict[str, Any]:
    """Return the body of an answer, without what differs from request to request."""
    path = "/v1/chat/completions" if "prompt" not in body else "/v1/completions"
    asked = {"model": "tuned", **({} if "prompt" in body else ASKED), **body}
    reply = running.fetch(path, asked, headers)
    assert reply.status == 200, reply.text
    found: dict[str, Any] = json.loads(reply.text)
    assert found.pop("id") and found.pop("created")
    return found


def stream(running: Running, **body: Any) -> str:
    """Return the events of a streamed answer, without ids and times."""
    asked = {"model": "tuned", **ASKED, **body, "stream": True}
    reply = running.fetch("/v1/chat/completions", asked)
    events = [line[6:] for line in reply.text.splitlines() if line.startswith("data: {")]
    kept = [{k: v for k, v in json.loads(e).items() if k not in ("id", "created")} for e in events]
    assert kept and "[DONE]" in reply.text
    return json.dumps(kept)


# ----------------------------------------------------------------- choose


def test_a_header_chooses_one_of_two_models() -> None:
    extension, _ = extension_of(Users)
    with run_server(two_models(), extensions=[extension]) as running:
        tuned, other = ask(running), ask(running, model="other")
        assert tuned["choices"] != other["choices"]
        assert ask(running, {"X-User": "eve"}) == other and other["model"] == "other"
        assert ask(running, {"X-User": "ann"}) == tuned
        eves = {"X-User": "eve"}
        assert ask(running, eves, prompt="a") == ask(running, prompt="a", model="other")
        refused = running.fetch(
            "/v1/chat/completions", {"model": "tuned", **ASKED}, {"X-User": "mallory"}
        )
        assert refused.status == 400 and refused.error["message"] == "this user has no model"


class Chooser(Users):
    """Chooses what the test says."""

    answer: Any = None

    def choose(self, request: ServedRequest) -> str | None:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer  # type: ignore[no-any-return]


@pytest.mark.parametrize("answer", ["nowhere", ValueError("bug"), SystemExit(0), ["tuned"]])
def test_a_choice_that_fails_is_no_answer_of_another_model(
    answer: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    extension, chooser = extension_of(Chooser)
    chooser.answer = answer
    with run_server(extensions=[extension]) as running:
        reply = running.fetch("/v1/chat/completions", {"model": "tuned", **ASKED})
        assert reply.status == 500 and "the extension users failed" in reply.error["message"]
        chooser.answer = None
        assert ask(running)["model"] == "tuned"
    assert "extension users of file:users: " in capfd.readouterr().err


def test_a_choice_that_takes_too_long_ends_with_the_request() -> None:
    class Slow(Users):
        def choose(self, request: ServedRequest) -> str | None:
            time.sleep(0.6)
            return None

    extension, _ = extension_of(Slow)
    with run_server(extensions=[extension], limits=Limits(seconds=0.1)) as running:
        reply = running.fetch("/v1/chat/completions", {"model": "tuned", **ASKED})
        assert reply.status == 504


# ----------------------------------------------------------------- observe


def test_what_an_observer_sees() -> None:
    extension, users = extension_of(Users)
    secret = {"Authorization": "Bearer abc", "x-api-key": "k", "Cookie": "c=1", "X-User": "ann"}
    with run_server(extensions=[extension], token="abc") as running:
        body = {"model": "tuned", **ASKED, "user": "u1", "n": 2, "temperature": 1.0, "seed": 1}
        reply = json.loads(running.fetch("/v1/chat/completions", body, secret).text)
        wait_for(lambda: len(users.seen) == 1)
    ((request, answer),) = users.seen
    assert request.headers == {"x-user": "ann"}
    assert request.model == "tuned" and json.loads(request.body) == body
    assert answer.id == reply["id"] and answer.model == "tuned"
    assert answer.texts == tuple(c["message"]["content"] for c in reply["choices"])
    assert answer.finish_reasons == tuple(c["finish_reason"] for c in reply["choices"])
    assert answer.prompt_tokens == reply["usage"]["prompt_tokens"]
    assert answer.completion_tokens == reply["usage"]["completion_tokens"]
    assert answer.seconds > 0 and answer.logprobs == ((), ())


def test_an_extension_that_only_observes_is_asked_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Observer(ServeExtension):
        def __init__(self, options: UserOptions) -> None:
            self.seen: list[ServedAnswer] = []

        def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
            self.seen.append(answer)

    extension, observer = extension_of(Observer)
    for method in ("choose", "change_models"):
        monkeypatch.setattr(extension, method, lambda *_: pytest.fail("this costs time"))
    with run_server(extensions=[extension]) as running:
        ask(running)
        wait_for(lambda: len(observer.seen) == 1)
    assert observer.seen[0].confidences == (None,), "the run has no calibration"


def test_an_observer_sees_the_confidence_that_the_client_gets() -> None:
    extension, users = extension_of(Users)
    calibration = {"precision": 0.9, "threshold": None, "slope": 1.0, "intercept": 0.5, "rows": 9}
    policies = {"tuned": ReviewPolicy(**calibration)}
    with run_server(extensions=[extension], policies=policies) as running:
        found = [ask(running, **body) for body in ({}, {"temperature": 1.0}, {"prompt": "a"})]
        wait_for(lambda: len(users.seen) == 3)
    shown = [reply["choices"][0].get("tunesmith", {}).get("confidence") for reply in found]
    assert [answer.confidences for _, answer in users.seen] == [(value,) for value in shown]
    assert shown[0] is not None and shown[1:] == [None, None]


def test_a_body_is_seen_as_it_was_sent() -> None:
    extension, users = extension_of(Users)
    deep: Any = {}
    for _ in range(300):
        deep = {"d": deep}
    body = json.dumps({"model": "tuned", **ASKED, "metadata": deep}).encode()
    engines = {"tuned": CallingEngine(FakeTextModel())}
    with run_server(engines, extensions=[extension]) as running:
        assert running.fetch("/v1/chat/completions", body).status == 200
        wait_for(lambda: len(users.seen) == 1)
    assert users.seen[0][0].body == body.decode()


def test_a_stream_is_observed_as_a_whole_and_is_the_same_with_an_observer() -> None:
    extension, users = extension_of(Users, needs_logprobs=True)
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with run_server() as running:
        plain, called = stream(running), stream(running, tools=tools)
        whole, scored = ask(running), ask(running, logprobs=True)
        text = ask(running, prompt="a", max_tokens=5)
    with run_server(extensions=[extension]) as running:
        assert stream(running) == plain and stream(running, tools=tools) == called
        assert ask(running) == whole and ask(running, logprobs=True) == scored
        assert ask(running, prompt="a", max_tokens=5) == text
        wait_for(lambda: len(users.seen) == 5)
    streamed, _, first, last, _ = (answer for _, answer in users.seen)
    for answer in (streamed, first, last):
        assert answer.texts == (whole["choices"][0]["message"]["content"],)
        assert answer.completion_tokens == whole["usage"]["completion_tokens"]
    shown = [token["logprob"] for token in scored["choices"][0]["logprobs"]["content"]]
    assert list(streamed.logprobs[0]) == list(first.logprobs[0]) == shown


def test_scores_that_nobody_asked_for_add_no_event_to_a_stream() -> None:
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    score = TokenScore(("<tool_call>", -1.0), ())
    for asked, count in (({}, 0), ({"logprobs": True}, 1)):
        request = read_request(ChatRequest, {"model": "tuned", **ASKED, "tools": tools, **asked})
        responses = Responses(request, OpenRequest("id", "tuned", [], Channel(), 1, 1.0))
        piece = Piece(0, "<tool_call>", (score,))  # held back: it may become a call
        assert len([*responses.write_piece(piece)]) == count


def test_answers_that_do_not_end_are_observed_as_unfinished() -> None:
    extension, users = extension_of(Users)
    engines = {"tuned": CallingEngine(SlowModel())}
    engines["tuned"]._model.may_answer.wait = lambda seconds: time.sleep(0.3) or True  # type: ignore[attr-defined]
    with run_server(engines, extensions=[extension], limits=Limits(seconds=0.1)) as running:
        reply = running.fetch("/v1/chat/completions", {"model": "tuned", **ASKED})
        assert reply.status == 504
        wait_for(lambda: len(users.seen) == 1)
    ((_, answer),) = users.seen
    assert (answer.texts, answer.finish_reasons) == (("",), ("unfinished",))


def test_a_slow_observer_delays_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    may_go_on = threading.Event()

    class Slow(Users):
        def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
            assert may_go_on.wait(20)
            super().observe(request, answer)

    monkeypatch.setattr(extensions, "MAX_PENDING", 3)
    extension, users = extension_of(Slow)
    with run_server({"tuned": CallingEngine(FakeTextModel())}, extensions=[extension]) as running:
        for _ in range(10):
            ask(running)
        assert not users.seen

        def count(outcome: str) -> float:
            return running.metric("observations_total", extension="users", outcome=outcome)

        assert count("dropped") in (6.0, 7.0)  # one may be in its hands
        assert b"tunesmith_observations_total{" in running.service.metrics.to_text()
        may_go_on.set()
        wait_for(lambda: count("observed") + count("dropped") == 10)


def test_an_observer_wakes_for_many_answers_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also before its pause ends, if the queue could overflow."""
    monkeypatch.setattr(extensions, "SECONDS_BETWEEN", 1e3)
    monkeypatch.setattr(extensions, "MAX_PENDING", 10)
    extension, users = extension_of(Users)
    with run_server({"tuned": CallingEngine(FakeTextModel())}, extensions=[extension]) as running:
        for _ in range(5):
            ask(running)
        assert not users.seen
        ask(running)
        wait_for(lambda: len(users.seen) == 6)
        ask(running)
    assert len(users.seen) == 7


def test_what_is_pending_at_the_end_is_observed() -> None:
    class Late(Users):
        def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
            time.sleep(0.05)
            super().observe(request, answer)

    extension, users = extension_of(Late)
    with run_server({"tuned": CallingEngine(FakeTextModel())}, extensions=[extension]) as running:
        for _ in range(5):
            ask(running)
    assert len(users.seen) == 5


@pytest.mark.parametrize("error", [ValueError("a bug"), SystemExit(3)])
def test_an_observer_that_raises_is_named_and_muted(
    error: BaseException, capfd: pytest.CaptureFixture[str]
) -> None:
    class Raising(Users):
        def observe(self, request: ServedRequest, answer: ServedAnswer) -> None:
            raise error

    broken, _ = extension_of(Raising, "broken")
    extension, users = extension_of(Users)
    both = [broken, extension]
    with run_server({"tuned": CallingEngine(FakeTextModel())}, extensions=both) as running:
        for _ in range(5):
            ask(running)
        wait_for(lambda: len(users.seen) == 5)

        def count(outcome: str) -> float:
            return running.metric("observations_total", extension="broken", outcome=outcome)

        wait_for(lambda: (count("failed"), count("muted")) == (3.0, 2.0))
    printed = capfd.readouterr().err
    assert printed.count("extension broken of file:users: failed: ") == 3
    assert printed.count("the extension observes no further answers") == 1


# ----------------------------------------------------------------- what the user names


def test_nothing_is_observed_unless_it_is_named() -> None:
    offer = ServeExtensionOffer(name="users", summary="users", config=UserOptions, build=Users)
    catalog = catalog_of(users=offering("serve_extensions", offer))
    assert open_with(catalog, {}) == []
    assert [e.name for e in open_with(catalog, {"users": {}})] == ["users"]
    with pytest.raises(UsageError, match='no serve extension "user" is installed') as refused:
        open_with(catalog, {"user": {}})
    assert refused.value.hint == 'did you mean "users"?'
    with pytest.raises(ConfigError, match=r"users\.heder: unknown key"):
        open_with(catalog, {"users": {"heder": "x"}})
    with pytest.raises(ConfigError, match="users: must be a table"):
        open_with(catalog, {"users": "x-user"})
    with pytest.raises(UsageError, match="nowhere"):
        open_extensions(catalog, Path("nowhere.toml"))


def test_models_of_an_extension_are_served_beside_those_of_the_run(finished: Path) -> None:
    class More(Users):
        def models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel]:
            return {"more": load(folder.path / trained.artifact), **self.others}

        others: Mapping[str, TextModel] = {}

    extension, more = extension_of(More)
    folder, plan, _ = api.load_run(finished)
    trained = load_report(folder).training_finished[""]
    engines = open_engines(folder, plan, ["base"], slots=2, extensions=[extension])
    assert [*engines] == ["base", "more"]
    more.others = {"base": FakeTextModel()}
    with pytest.raises(UsageError, match="extension users: a model named base is already served"):
        open_engines(folder, plan, ["base"], slots=2, extensions=[extension])


# ----------------------------------------------------------------- models that come and go


class Changing(Users):
    """Changes the models once, as the test says."""

    changes: Mapping[str, TextModel | None] = {}

    def change_models(self, load: Callable[[Path], TextModel]) -> Mapping[str, TextModel | None]:
        changes, self.changes = self.changes, {}
        if changes:
            assert isinstance(load(Path("adapter")), FakeTextModel)
        return changes


def changing() -> tuple[Extension, Changing]:
    """Return the extension after the server has opened the models of its run."""
    extension, built = extension_of(Changing)
    technique = SimpleNamespace(open=lambda *_, device: FakeTextModel())
    offer = SimpleNamespace(build=lambda config: technique)
    plan: Any = SimpleNamespace(
        technique=SimpleNamespace(offer=offer, config=None),
        found_model=SimpleNamespace(fetch=lambda: Path()),
        run=SimpleNamespace(device="cpu"),
    )
    assert extension.open_models(plan) == {}
    return extension, built


def test_models_are_added_replaced_and_removed_while_the_server_runs() -> None:
    extension, built = changing()
    with run_server(extensions=[extension]) as running:
        tuned = ask(running)
        assert running.fetch("/v1/chat/completions", {"model": "new", **ASKED}).status == 404
        built.changes = {"new": other_model()}
        first = ask(running, model="new")
        assert first["choices"] != tuned["choices"]
        built.changes = {"new": text_model()}
        assert ask(running, model="new")["choices"] == tuned["choices"]
        listed = json.loads(running.fetch("/v1/models").text)["data"]
        assert [model["id"] for model in listed] == ["tuned", "new"]
        built.changes = {"new": None}
        assert running.fetch("/v1/chat/completions", {"model": "new", **ASKED}).status == 404
        wait_for(lambda: len(running.service.thread._entered) == 1)
        assert ask(running) == tuned


def test_a_model_is_loaded_when_it_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first request for it waits for it, and is answered by it."""
    extension, built = changing()

    def choose(request: ServedRequest) -> str | None:
        user = request.headers.get("x-user")
        if user:
            built.changes = {user: other_model()}
        return user

    monkeypatch.setattr(built, "choose", choose)
    with run_server(extensions=[extension]) as running:
        tuned = ask(running)
        found = ask(running, {"X-User": "ann"})
        assert found["model"] == "ann" and found["choices"] != tuned["choices"]


def test_a_removed_model_finishes_its_answers() -> None:
    extension, built = changing()
    slow = SlowModel()
    with run_server(extensions=[extension]) as running:
        built.changes = {"slow": slow}
        replies: list[dict[str, Any]] = []
        thread = threading.Thread(target=lambda: replies.append(ask(running, model="slow")))
        thread.start()
        wait_for(lambda: "slow" in running.service.thread._entered.values())
        built.changes = {"slow": None}
        assert len(json.loads(running.fetch("/v1/models").text)["data"]) == 1
        slow.may_answer.set()
        thread.join(20)
        assert replies[0]["choices"][0]["message"]["content"] == "Hi"
        wait_for(lambda: "slow" not in running.service.thread._entered.values())


def test_an_extension_cannot_replace_the_models_of_the_run(
    capfd: pytest.CaptureFixture[str],
) -> None:
    extension, built = changing()
    with run_server(extensions=[extension]) as running:
        tuned = ask(running)
        built.changes = {"tuned": other_model()}
        assert ask(running) == tuned
        built.changes = {"tuned": None}
        assert ask(running) == tuned
    assert "'tuned' is already served" in capfd.readouterr().err


def test_adapters_of_one_model_answer_in_one_batch() -> None:
    """Many requests at the same time, also while adapters are removed and added."""
    extension, built = changing()
    host: Any = other_model()
    adapters = add_shift_adapters(host.model, 6)
    served = {f"user-{n}": AdaptedModel(host, adapter) for n, adapter in enumerate(adapters)}
    words = [f"hello {n}" for n in range(4)]
    alone = {
        (name, word): model.generate([(Message("user", word),)], 8)[0].text
        for name, model in served.items()
        for word in words
    }
    assert len({*alone.values()}) > 12

    def answer(name: str, word: str) -> str:
        message = {"role": "user", "content": word}
        found: str = ask(running, model=name, messages=[message])["choices"][0]["message"][
            "content"
        ]
        return found

    with run_server(extensions=[extension]) as running, ThreadPoolExecutor(6) as pool:
        built.changes = served
        ask(running, model="user-0")
        engines = running.service.thread.engines
        assert len({engines[name].runner for name in served}) == 1
        keys = [*alone] * 2
        random.Random(0).shuffle(keys)
        assert [*pool.map(answer, *zip(*keys, strict=True))] == [alone[key] for key in keys]
        for removed in ("user-0", "user-1"):
            built.changes = {removed: None}
            keys = [key for key in keys if key[0] != removed]
            assert [*pool.map(answer, *zip(*keys, strict=True))] == [alone[key] for key in keys]
            path = "/v1/chat/completions"
            assert running.fetch(path, {"model": removed, **ASKED}).status == 404
        built.changes = {"user-0": served["user-0"]}
        assert answer("user-0", words[0]) == alone["user-0", words[0]]
        running.wait_until_idle()


def test_a_failure_to_change_the_models_stops_no_answer(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    extension, built = changing()
    monkeypatch.setattr(built, "change_models", lambda load: 1 / 0)
    with run_server(extensions=[extension]) as running:
        assert ask(running)["model"] == "tuned"
    assert "cannot change the models: ZeroDivisionError" in capfd.readouterr().err


def test_a_model_that_loads_slowly_is_served_to_later_requests(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The request that waited for it has timed out; the extension does not return it again."""
    extension, built = changing()
    given = built.change_models

    def load_slowly(load: Callable[[Path], TextModel]) -> Mapping[str, TextModel | None]:
        time.sleep(1.0 if built.changes else 0.0)
        return given(load)

    monkeypatch.setattr(built, "change_models", load_slowly)
    with run_server(extensions=[extension], limits=Limits(seconds=0.5)) as running:
        built.changes = {"new": other_model()}
        assert running.fetch("/v1/chat/completions", {"model": "tuned", **ASKED}).status == 504
        wait_for(lambda: "new" in running.service.thread.engines)
        assert running.fetch("/v1/models/new").status == 200
