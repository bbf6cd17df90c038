"""Retraining from start to end: decide, train, compare, promote, roll back."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from conftest import make_rows, write_lines

from tunesmith import api
from tunesmith.errors import GateError, IntegrityError, RunStopped, TrainingError, UsageError
from tunesmith_monitor import candidate
from tunesmith_monitor.candidate import Judgement, SplitRows, evaluate_new_rows, judge, split_rows
from tunesmith_monitor.monitor import Monitor, read_outcomes
from tunesmith_monitor.reference import find_score
from tunesmith_monitor.retrain_command import ACT, command
from tunesmith_monitor.service_link import previous_link, promote, roll_back

NEW = ("parking", "garage", "badge", "gate")


def new_intent(count: int, seed: int) -> list[dict[str, str]]:
    """Return requests of a topic that the run does not know."""
    rng, rows = random.Random(seed), []
    for n in range(count):
        a, b = rng.sample(NEW, 2)
        rows.append({"prompt": f"Case {n} about {a} and {b}", "completion": "parking"})
    return rows


def call(*arguments: str | Path) -> Result:
    return CliRunner().invoke(command, [*map(str, arguments)], standalone_mode=False)


@pytest.fixture
def service(finished_run: Path, tmp_path: Path) -> Path:
    """A link to a copy of the run."""
    shutil.copytree(finished_run, tmp_path / "tickets-1")
    (tmp_path / "service").symlink_to("tickets-1")
    return tmp_path / "service"


def checksums(run: Path) -> dict[str, str]:
    """Return the checksum of each file of a run, except its lock."""
    files = sorted(path for path in run.rglob("*") if path.is_file() and path.name != "lock")
    return {str(f.relative_to(run)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def test_the_story_from_start_to_end(service: Path, tmp_path: Path) -> None:
    before = checksums(service)
    rows = write_lines(tmp_path / "labeled.jsonl", [*new_intent(150, 1), *make_rows(40, 77)])
    found = call(service, "--rows", rows, "--json")
    assert found.return_value == ACT, found.output
    content = json.loads(found.stdout)
    assert content["decision"] == "RETRAIN" and content["inputs"]["error_now"] > 0.5
    assert {"volume", "value", "label_cost"} <= {c["input"] for c in content["sensitivity"]}
    assert "random sample" in found.stderr
    evaluated = [path.name[:5] for path in (tmp_path / "tickets-1-next.rows").glob("*/")]
    assert evaluated == ["added"], "the decision used the rows that the gate needs"
    # The model of n-grams forgets a little, which the default margin does not accept.
    found = call(service, "--rows", rows, "--go")
    assert isinstance(found.exception, GateError) and "old rows" in str(found.exception)
    assert service.resolve() == tmp_path / "tickets-1"
    found = call(service, "--rows", rows, "--go", "--margin", "0.2")
    assert found.return_value == 0, (found.output, found.exception)
    assert service.resolve() == tmp_path / "tickets-1-next" / "run"
    assert "in service" in found.output and "--rollback" in found.output
    assert checksums(tmp_path / "tickets-1") == before
    assert call(service, "--rollback").return_value == 0
    assert service.resolve() == tmp_path / "tickets-1" and checksums(service) == before
    assert call(service, "--rollback").return_value == 0  # and forward again
    assert service.resolve() == tmp_path / "tickets-1-next" / "run"


def test_a_decision_needs_somebody_who_checks_answers(service: Path, tmp_path: Path) -> None:
    found = call(service)
    assert isinstance(found.exception, UsageError) and "nobody knows" in str(found.exception)
    audited = write_lines(tmp_path / "l.jsonl", [{"right": n % 2} for n in range(60)])
    with Monitor.open(service) as monitor:
        monitor.read([audited])
    assert len(read_outcomes(monitor.folder)) == 60
    found = call(service)
    assert "LABEL" in found.output and found.return_value == ACT
    assert call(service, "--volume", "1").return_value == 0


def test_only_a_link_can_be_promoted(service: Path, tmp_path: Path) -> None:
    rows = write_lines(tmp_path / "labeled.jsonl", new_intent(150, 1))
    found = call(service.resolve(), "--rows", rows, "--go")
    assert isinstance(found.exception, UsageError) and "is not a link" in str(found.exception)
    with pytest.raises(UsageError, match="no run was promoted"):
        roll_back(service)
    assert isinstance(call(service, "--go").exception, UsageError)


def test_a_damaged_model_is_never_put_in_service(service: Path, tmp_path: Path) -> None:
    shutil.copytree(service, tmp_path / "tickets-2")
    promote(service, tmp_path / "tickets-2")
    trained = api.read_report(tmp_path / "tickets-1").training_finished[""]
    model = next((tmp_path / "tickets-1" / trained.artifact).glob("*.json"))
    model.write_bytes(model.read_bytes()[:-1])
    with pytest.raises(IntegrityError):
        roll_back(service)
    assert service.resolve() == tmp_path / "tickets-2"
    assert previous_link(service).resolve() == tmp_path / "tickets-1"


def test_new_rows_are_split_by_prompt_without_known_ones(service: Path, tmp_path: Path) -> None:
    rows = [*new_intent(120, 2), *new_intent(120, 2)]
    _, plan, _ = api.load_run(service)
    train_file = Path(plan.to_json()["data"]["train"])
    known = [json.loads(line) for line in train_file.read_text().splitlines()[:30]]
    found = split_rows(write_lines(tmp_path / "l.jsonl", [*rows, *known]), service)
    assert found.known == 30 and len(found.train) + len(found.test) == 240
    prompts = [{row["prompt"] for row in part} for part in (found.train, found.test)]
    assert not prompts[0] & prompts[1] and 40 < len(found.test) < 120
    few = write_lines(tmp_path / "few.jsonl", [*new_intent(20, 3), *known])
    with pytest.raises(UsageError, match="only 20 rows are new"):
        split_rows(few, service)


def test_lines_end_at_line_breaks_only(service: Path, tmp_path: Path) -> None:
    """A prompt may contain other characters that Python takes for line ends."""
    rows = [{**row, "prompt": row["prompt"] + "\u2028\x85x"} for row in new_intent(120, 2)]
    path = tmp_path / "l.jsonl"
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    found = split_rows(path, service)
    assert len(found.train) + len(found.test) == 120
    with path.open("a") as file:
        file.write("{no JSON\n")
    with pytest.raises(UsageError, match="some rows are unusable"):
        split_rows(path, service)


def test_other_rows_than_those_of_the_prepared_run_are_refused(
    service: Path, tmp_path: Path
) -> None:
    """They would be neither trained nor tested on."""
    rows = write_lines(tmp_path / "l.jsonl", new_intent(150, 1))
    assert call(service, "--rows", rows, "--prepare").return_value == 0
    assert call(service, "--rows", rows, "--prepare").return_value == 0
    more = write_lines(tmp_path / "more.jsonl", [*new_intent(150, 1), *new_intent(150, 9)])
    for option in ("--prepare", "--go"):
        found = call(service, "--rows", more, option)
        assert isinstance(found.exception, UsageError) and "other rows" in str(found.exception)


def test_options_that_exclude_each_other_or_are_impossible_are_refused(service: Path) -> None:
    for options, text in (
        (("--go", "--rollback"), "cannot be combined"),
        (("--prepare", "--go"), "cannot be combined"),
        (("--first-rows", "0"), "x>0"),
    ):
        assert text in str(call(service, *options).exception)


def test_an_interrupted_retraining_repeats_no_step(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with rows that change: their old evaluations are not used again."""
    calls: list[str] = []

    def fake(*arguments: str) -> None:
        calls.append(arguments[0])
        if arguments[0] == "evaluate":
            folder = Path(arguments[-1])
            folder.mkdir(parents=True)
            line = json.dumps({"exact-match": {"value": 1.0, "weight": 1.0}})
            (folder / "rows.jsonl").write_text(line + "\n")
            event = {"evaluator": "e", "metric": "exact-match", "records": "rows.jsonl"}
            (folder / "evaluation.json").write_text(json.dumps({"measured": [event]}))

    monkeypatch.setattr(candidate, "call", fake)
    out, key = tmp_path / "next", ("e", "exact-match")
    for rows, expected in (([{"n": 1}], 1), ([{"n": 1}], 1), ([{"n": 2}], 2)):
        candidate.write_rows(SplitRows(rows, rows, 0), out)
        assert evaluate_new_rows(service, out, "test", key) == [1.0]
        assert calls == ["evaluate"] * expected
    for folder in candidate.rows_folder(out).glob("test-*"):
        folder.rename(folder.with_name(f"{folder.name}.partial"))  # killed before its end
    assert evaluate_new_rows(service, out, "test", key) == [1.0]
    assert calls == ["evaluate"] * 3
    other = tmp_path / "other"
    shutil.copytree(service, other)
    evaluate_new_rows(other, out, "test", key)
    assert calls == ["evaluate"] * 4, "the evaluation of one run was used for another"


def judge_simulated(
    monkeypatch: pytest.MonkeyPatch, service: Path, gain: float, seed: int
) -> Judgement:
    """Judge a candidate whose share of right answers to new rows is higher by ``gain``."""
    rng = np.random.default_rng(seed)
    before = (rng.random(120) < 0.6).astype(float).tolist()
    after = (rng.random(120) < 0.6 + gain).astype(float).tolist()
    values = iter((before, after))
    monkeypatch.setattr(candidate, "evaluate_new_rows", lambda *_: next(values))
    return judge(service.resolve(), service.resolve(), service, 0.05)


def test_a_worse_candidate_is_never_promoted(
    service: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse = [judge_simulated(monkeypatch, service, -0.05, seed) for seed in range(40)]
    assert sum(not found.reasons for found in worse) == 0
    better = [judge_simulated(monkeypatch, service, 0.3, seed) for seed in range(10)]
    assert not any(found.reasons for found in better), "the gate can be passed"


def test_a_candidate_that_forgot_is_not_promoted(
    service: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Better on new rows, worse on old ones."""
    bad = tmp_path / "forgot"
    shutil.copytree(service, bad)
    event = find_score(api.read_report(bad))
    assert event is not None
    path = bad / event.records
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows[: len(rows) // 4]:
        row[event.metric]["value"] = 0.0
    write_lines(path, rows)
    values = itertools.cycle(([0.0] * 50, [1.0] * 50))
    monkeypatch.setattr(candidate, "evaluate_new_rows", lambda *_: next(values))
    found = judge(service, bad, tmp_path, 0.05)
    assert found.reasons == ["on old rows it may be worse by more than 0.05"]
    assert not judge(service, service, tmp_path, 0.05).reasons


@pytest.mark.parametrize(("code", "error"), [(6, GateError), (1, TrainingError), (75, RunStopped)])
def test_a_command_that_fails_ends_the_retraining(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, code: int, error: type[Exception]
) -> None:
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nexit {code}\n", encoding="utf-8")
    program.chmod(0o755)
    monkeypatch.setattr(candidate.sys, "executable", str(program))
    with pytest.raises(error):
        candidate.call("run", "run.toml")
