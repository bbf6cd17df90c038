"""The serve extension: a stable split of users, and a log that the commands read."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import make_rows, write_lines

from tunesmith.errors import UsageError
from tunesmith_cli.serving import ServedAnswer, ServedRequest, ServeExtension
from tunesmith_monitor.ab_command import command, is_split_wrong
from tunesmith_monitor.monitor import Monitor, MonitorOptions
from tunesmith_monitor.serve_extension import (
    CANDIDATE,
    MONITOR,
    MonitorExtension,
    MonitorExtensionOptions,
    assign,
)


def build(log: Path, **options: object) -> MonitorExtension:
    settings = {"log": str(log), "candidate": "runs/next/model", **options}
    return MONITOR.build(MonitorExtensionOptions(**settings))


def asked(user: str, text: str = "q", model: str = "tuned") -> ServedRequest:
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": text}]})
    return ServedRequest(model=model, headers={"x-user": user} if user else {}, body=body)


def answered(id_: str, model: str, confidence: float | None = 0.9) -> ServedAnswer:
    return ServedAnswer(
        id=id_, model=model, texts=("a",), finish_reasons=("stop",), logprobs=((),),
        confidences=(confidence,), prompt_tokens=1, completion_tokens=1, seconds=0.1,
    )  # fmt: skip


def test_users_are_split_by_share_and_keep_their_model(tmp_path: Path) -> None:
    extension = build(tmp_path / "log", share=0.3)
    chosen = [extension.choose(asked(f"user {n}")) for n in range(2_000)]
    assert {*chosen} == {None, CANDIDATE} and abs(chosen.count(CANDIDATE) - 600) < 90
    assert chosen == [extension.choose(asked(f"user {n}")) for n in range(2_000)]
    other = build(tmp_path / "log", share=0.3, experiment="2")
    again = [other.choose(asked(f"user {n}")) for n in range(2_000)]
    both = sum(a == b == CANDIDATE for a, b in zip(chosen, again, strict=True))
    assert abs(both - 180) < 60, "a new experiment assigns users independently of the old one"
    assert extension.choose(asked("")) is None
    assert extension.choose(asked("user 1", model="base")) is None
    assert build(tmp_path / "log", candidate="").choose(asked("user 1")) is None
    assert 0 <= min(assign(str(n), "1") for n in range(99)) < 0.1


def test_the_log_is_read_by_the_monitor(finished_run: Path, tmp_path: Path) -> None:
    extension = build(tmp_path / "traffic.jsonl")
    for n, row in enumerate(make_rows(60, 5)):
        extension.observe(asked("ann", row["prompt"]), answered(str(n), "tuned"))
    extension.observe(asked("ann", "hi"), answered("x", CANDIDATE))
    text = (tmp_path / "traffic.jsonl").read_text()
    assert "ann" not in text, "the log must not name users"
    options = MonitorOptions(run_length=2_000, window=25)
    with Monitor.open(finished_run, tmp_path / "m", options=options) as monitor:
        monitor.read([tmp_path / "traffic.jsonl"])
    assert monitor.watch.requests == 61
    assert monitor.watch.confidence is not None and monitor.watch.confidence.count == 60
    assert monitor.watch.confidence.rows[0] == [0.9]


def test_an_answer_that_was_not_evaluated_has_no_confidence(tmp_path: Path) -> None:
    """The server has none for sampled answers, and for those of a run without `review`."""
    extension = build(tmp_path / "log")
    extension.observe(asked("ann"), answered("1", "tuned", None))
    assert "confidence" not in json.loads((tmp_path / "log").read_text())


def test_a_user_who_names_the_model_is_not_part_of_the_comparison(tmp_path: Path) -> None:
    extension = build(tmp_path / "log")
    for model in ("tuned", CANDIDATE):
        extension.observe(asked("ann", model=model), answered("1", CANDIDATE))
    users = [json.loads(line)["user"] for line in (tmp_path / "log").read_text().splitlines()]
    assert users[0] and users[1] is None


def test_a_log_that_cannot_be_opened_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"monitor\.log: .* cannot be opened") as refused:
        build(tmp_path / "none" / "log")
    assert refused.value.hint


def test_no_request_waits_for_a_choice_without_a_candidate(tmp_path: Path) -> None:
    """The server calls only methods that an extension overrides."""
    assert type(build(tmp_path / "log", candidate="")).choose is ServeExtension.choose


@pytest.mark.parametrize(
    ("rates", "decision", "code"),
    [((0.5, 0.9), "better", 10), ((0.9, 0.5), "worse", 11), ((0.7, 0.7), "go on", 0)],
)
def test_outcomes_by_id_decide(
    tmp_path: Path, rates: tuple[float, float], decision: str, code: int
) -> None:
    extension, rng, outcomes = build(tmp_path / "log"), random.Random(0), []
    for n in range(400):
        request = asked(f"user {n % 300}")  # some users ask twice
        model = extension.choose(request) or "tuned"
        extension.observe(request, answered(str(n), model))
        outcomes.append({"id": str(n), "outcome": int(rng.random() < rates[model == CANDIDATE])})
    outcomes.append({"id": "unknown", "outcome": 0})
    outcomes += [{**row, "outcome": 1 - row["outcome"]} for row in outcomes]  # not the first ones
    with (tmp_path / "log").open("a") as log:
        log.write('{"id": "cut by a full di\n')
    path = write_lines(tmp_path / "outcomes.jsonl", outcomes)
    arguments = [str(tmp_path / "log"), "--outcomes", str(path)]
    found = CliRunner().invoke(command, [*arguments, "--json"], standalone_mode=False)
    content = json.loads(found.stdout)
    assert content["decision"] == decision and found.return_value == code
    assert sum(content["users"]) == 300, "the first outcome of each user counts"
    shown = CliRunner().invoke(command, arguments, standalone_mode=False)
    assert shown.output.startswith(decision.upper()) and "warning" not in shown.output
    shown = CliRunner().invoke(command, [*arguments, "--share", "0.8"], standalone_mode=False)
    assert "does not fit --share" in shown.output


def test_bad_outcomes_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "log")
    for line in ('{"id": "1", "outcome": 3}', "no JSON"):
        (tmp_path / "o.jsonl").write_text(line + "\n", encoding="utf-8")
        arguments = [str(tmp_path / "log"), "--outcomes", str(tmp_path / "o.jsonl")]
        found = CliRunner().invoke(command, arguments, standalone_mode=False)
        assert "o.jsonl:1" in str(found.exception)
    assert not is_split_wrong([0, 0], 0.5) and is_split_wrong([100, 10], 0.5)
