"""The serve extension: the right adapter for every user, also under load and after eviction."""

from __future__ import annotations

import json
import random
import re
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from people import INTENTS

from tunesmith import api
from tunesmith.contracts import RunContext
from tunesmith.errors import UsageError
from tunesmith.execution.run_data import load_data
from tunesmith.records import Message, last_exchange
from tunesmith_cli.serving import ServedRequest
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_personal.baselines import UserBaselines
from tunesmith_personal.evaluator import PersonalEvaluator
from tunesmith_personal.match import UserMatch
from tunesmith_personal.options import EvidenceOptions, UserMatchOptions
from tunesmith_personal.segments import Layout
from tunesmith_personal.serving import PersonalServing, PersonalServingOptions
from tunesmith_personal.store import OWN, Decision, Store
from tunesmith_personal.technique import SHARED_ADAPTER, group_by_user, open_shared
from tunesmith_personal.user_models import copy_with_adapter
from tunesmith_torch.generation.adapted_model import AdaptedModel

PROMPTS = [f"{intent} 99 user" for intent in INTENTS]


def request(user: str | None, model: str = "tuned") -> ServedRequest:
    headers = {} if user is None else {"x-tunesmith-user": user}
    return ServedRequest(model=model, headers=headers, body="{}")


def load_shared(run: Path) -> Any:
    _, plan, _ = api.load_run(run)
    options: Any = plan.technique.config
    return lambda path: open_shared(plan.found_model.fetch(), path, options, "cpu")


@pytest.fixture(scope="module")
def judged(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the finished run in which users are served everything that there is."""
    run = tmp_path_factory.mktemp("judged") / "run"
    shutil.copytree(finished, run)
    train = group_by_user(load_data(api.load_run(run)[1])[1].train)
    kinds = [OWN, *EvidenceOptions().baselines]
    decisions = [
        Decision(user=user, served=kinds[n % len(kinds)], k=3, examples=read_examples(rows))
        for n, (user, rows) in enumerate(train.items())
    ]
    Store(run).record_decisions(decisions)
    return run


@pytest.fixture(scope="module")
def alone(judged: Path) -> dict[tuple[str, str], str]:
    """The answer to each prompt of what each user is served, computed alone.

    Baselines are built from the run's data and an untouched base model.
    """
    store, layout = Store(judged), Layout.read(judged / SHARED_ADAPTER)[0]
    load = load_shared(judged)
    shared, base = load(judged / SHARED_ADAPTER), load(None)
    train = group_by_user(load_data(api.load_run(judged)[1])[1].train)
    found = {}
    for entry in store.entries():
        if entry.served == OWN:
            model = copy_with_adapter(shared, layout, store.vector(entry))
        else:
            rows = read_examples(train[entry.user])
            model = UserBaselines(shared, base).build(entry.served, rows, 3)
        for prompt in PROMPTS:
            found[entry.user, prompt] = model.generate([(Message("user", prompt),)], 8)[0].text
    return found


def extend(run: Path, **options: Any) -> PersonalServing:
    return PersonalServing(PersonalServingOptions(run=str(run), **options))


def test_a_wrong_user_is_refused_and_a_missing_one_gets_the_shared_adapter(
    finished: Path,
) -> None:
    extension = extend(finished)
    assert extension.choose(request(None)) == "tuned"
    for user in ("", "user-99", "user-00,user-01", "USER-00"):
        with pytest.raises(UsageError):
            extension.choose(request(user))


def test_names_of_models_reveal_no_user_and_give_no_access(judged: Path) -> None:
    extension, other = extend(judged), extend(judged)
    name = extension.choose(request("user-00"))
    assert name is not None and name != "tuned" and "user-00" not in name
    assert other.choose(request("user-00")) != name
    assert extension.choose(request(None, model=name)) == "tuned"
    assert extension.choose(request("user-01", model=name)) != name


def test_own_adapters_that_were_not_judged_are_served_only_if_asked_for(judged: Path) -> None:
    extension, every = extend(judged), extend(judged, serve="all")
    for entry in Store(judged).entries():
        assert (extension.choose(request(entry.user)) == "tuned") == (entry.served == "shared")
        every.choose(request(entry.user))
    own = [m for m in every.change_models(load_shared(judged)).values() if type(m) is AdaptedModel]
    assert len(own) == sum(entry.has_adapter for entry in Store(judged).entries())


def test_users_are_served_what_was_measured_with_the_same_scores(run: Path) -> None:
    """Judged again, with a classifier as the only baseline, which ties with the own adapters."""
    plan, load = api.load_run(run)[1], load_shared(run)
    parts, match = load_data(plan)[1], UserMatch(UserMatchOptions(), 8)
    context = RunContext(
        model=plan.found_model.fetch(),
        device="cpu",
        artifacts={"": run / SHARED_ADAPTER},
        open=load,
        train=parts.train,
        validation=parts.validation,
        measure_first=lambda model, records: match.measure(model, records)[0],
    )
    users = ("user-00", "user-01", "user-18", "user-19")
    records = [record for record in parts.test if record.group in users]
    evaluator = PersonalEvaluator(EvidenceOptions(baselines=["classifier"], k=3))
    measured = evaluator.compare(load(run / SHARED_ADAPTER), records, context)[0].values
    assert {Store(run).require(user).served for user in users} == {"classifier"}
    extension = extend(run)
    served: dict[str, Any] = {}
    for record, value in zip(records, measured, strict=True):
        name = str(extension.choose(request(record.group)))
        served |= extension.change_models(load)
        prompt, answer = last_exchange(record)
        found = served[name].generate([prompt], 8)[0].text
        assert float(found.strip() == answer.text.strip()) == value
    assert {0.0, 1.0} == {*measured}


def test_the_least_recently_used_adapters_are_removed(
    judged: Path, alone: dict[tuple[str, str], str]
) -> None:
    extension, load = extend(judged, resident=8), load_shared(judged)
    users = [e.user for e in Store(judged).entries() if e.served != "shared"][:12]
    served: dict[str, Any] = {}
    names: dict[str, str] = {}
    for user in [*users[:8], users[0], *users[8:], users[0], users[1]]:
        names[user] = str(extension.choose(request(user)))
        for name, model in extension.change_models(load).items():
            served[name] = model
            if model is None:
                del served[name]
        assert names[user] in served and len(served) <= 8
        answer = served[names[user]].generate([(Message("user", PROMPTS[0]),)], 8)[0].text
        assert answer == alone[user, PROMPTS[0]]
    assert {names[user] for user in (users[0], users[1])} <= served.keys()
    assert names[users[2]] not in served


def test_an_adapter_that_cannot_be_loaded_affects_nobody_else(
    run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    extension, load = extend(run, serve="all"), load_shared(run)
    users = [e.user for e in Store(run).entries() if e.has_adapter]
    good, bad = extension.choose(request(users[0])), extension.choose(request(users[1]))
    store = Store(run)
    bank = run / "users" / str(store.require(users[1]).bank)
    vector = store.vector(store.require(users[1])).numpy().tobytes()
    bank.write_bytes(bank.read_bytes().replace(vector[:64], bytes(64)))
    changes = extension.change_models(load)
    assert changes.keys() == {good} and bad not in changes
    assert "cannot open a user's model" in capfd.readouterr().err


def test_a_forgotten_user_is_refused_at_once(run: Path) -> None:
    extension = extend(run)
    extension.choose(request("user-03"))
    Store(run).forget("user-03")
    with pytest.raises(UsageError):
        extension.choose(request("user-03"))


# --------------------------------------------------------------------------- a real server


@pytest.fixture(scope="module")
def address(judged: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of ``tunesmith serve`` with the extension, in its own process."""
    pytest.importorskip("uvicorn")
    file = tmp_path_factory.mktemp("serve") / "extensions.toml"
    table = f'[users]\nrun = "{judged}"\nresident = 8\n'
    file.write_text(table, encoding="utf-8")
    command = [sys.executable, "-m", "tunesmith", "serve", judged, "--model", "tuned"]
    process = subprocess.Popen(
        [*map(str, command), "--port", "0", "--extensions", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    found = re.search(r"http://\S+", process.stdout.readline())
    assert found
    yield found[0]
    process.send_signal(signal.SIGTERM)
    assert process.wait(240) == 0


def ask(address: str, user: str | None, prompt: str, model: str = "tuned") -> str:
    body = {"model": model, "max_tokens": 8, "messages": [{"role": "user", "content": prompt}]}
    headers = {"Content-Type": "application/json"}
    if user is not None:
        headers["X-Tunesmith-User"] = user
    asked = urllib.request.Request(
        f"{address}/v1/chat/completions", json.dumps(body).encode(), headers
    )
    with urllib.request.urlopen(asked, timeout=60) as answer:
        content: str = json.load(answer)["choices"][0]["message"]["content"]
    return content


def test_mixed_requests_get_the_answers_of_each_user_alone(
    address: str, alone: dict[tuple[str, str], str]
) -> None:
    """Twenty users, eight of them in memory, asked at the same time in a random order."""
    keys = [*alone]
    random.Random(0).shuffle(keys)
    with ThreadPoolExecutor(6) as pool:
        answers = [*pool.map(lambda key: ask(address, *key), keys)]
    assert answers == [alone[key] for key in keys]
    assert len(set(answers)) > 10


def test_a_wrong_user_gets_status_400(address: str) -> None:
    with pytest.raises(urllib.error.HTTPError, match="400"):
        ask(address, "user-99", PROMPTS[0])


def test_the_name_of_a_model_gives_no_access_to_it(
    address: str, alone: dict[tuple[str, str], str]
) -> None:
    """Without the user's name, a client that has seen the list of models gets the shared one."""
    assert ask(address, "user-00", PROMPTS[0]) == alone["user-00", PROMPTS[0]]
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as answer:
        names = [model["id"] for model in json.load(answer)["data"]]
    own = [name for name in names if name.startswith("personal-")]
    assert own and {ask(address, None, PROMPTS[0], name) for name in own} == {
        ask(address, None, PROMPTS[0])
    }


def test_the_list_of_models_has_no_users(address: str) -> None:
    ask(address, "user-00", PROMPTS[0])
    with urllib.request.urlopen(f"{address}/v1/models", timeout=60) as answer:
        listed = answer.read().decode()
    assert "user-00" not in listed and "tuned" in listed
