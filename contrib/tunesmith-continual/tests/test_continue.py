"""``tunesmith continue``: a chain of three tasks, from the command line to the page."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tomli_w
from training import invoke, write_rows, write_task

import tunesmith
from tunesmith_continual.budget import predict_loss
from tunesmith_continual.chain import Task, read_chain
from tunesmith_continual.continue_command import predict_slope
from tunesmith_continual.findings import ChainFindings
from tunesmith_continual.measure import read_matrix
from tunesmith_continual.page import render_card, render_page


def test_each_cell_equals_an_independent_measurement(chain: Path) -> None:
    """R[i, j] from the Python API: the model of run i on the test rows of run j."""
    found = json.loads((chain / "green" / "continual" / "chain.json").read_text())
    names = ("red", "blue", "green")
    tests = {name: Task.open(chain / name).data.test for name in names}
    for i, after in enumerate(names):
        model = tunesmith.open_run(chain / after).model()
        for j, name in enumerate(names[: i + 1]):
            measured = tunesmith.evaluate(model, tests[name], "loss")["loss"]
            cell = found["matrix"][i][j]
            assert cell["value"] == pytest.approx(measured.value, rel=1e-5)
            assert cell["n"] == measured.n
        assert found["matrix"][i][i + 1 :] == [None] * (2 - i)
    values = [[cell and cell["value"] for cell in row] for row in found["matrix"]]
    assert found["average_accuracy"]["value"] == pytest.approx(sum(values[2]) / 3)
    # A loss improves when it falls.
    transfer = ((values[0][0] - values[2][0]) + (values[1][1] - values[2][1])) / 2
    assert found["backward_transfer"]["value"] == pytest.approx(transfer)
    best = min(values[0][0], values[1][0])
    forgetting = ((values[2][0] - best) + (values[2][1] - values[1][1])) / 2
    assert found["forgetting"]["value"] == pytest.approx(forgetting)
    assert values[2][0] != values[0][0] and values[2][1] != values[1][1]


def test_the_new_run_starts_from_the_one_before(chain: Path) -> None:
    green = Task.open(chain / "green")
    assert [task.name for task in read_chain(green)] == ["red", "blue", "green"]
    assert Path(green.plan.to_json()["technique"]["from"]) == (chain / "blue").resolve()
    blue = Task.open(chain / "blue").plan.to_json()["retention"]
    assert blue["earlier"] == [str((chain / "red").resolve())]
    log = (chain / "blue" / "additions" / "retention" / "replayed.jsonl").read_text()
    assert {json.loads(line)["run"] for line in log.splitlines()} == {*blue["earlier"]}


def test_the_terminal_shows_matrix_and_figures(chain: Path) -> None:
    shown = (chain / "shown.txt").read_text()
    assert re.search(r"after +on red +on blue +on green", shown)
    assert (
        "backward transfer:" in shown and "forgetting:" in shown and "since it was trained" in shown
    )
    assert all(len(line) <= 100 for line in shown.splitlines() if not line.startswith("page"))


def test_the_page_is_one_file_with_all_scores(chain: Path) -> None:
    page = (chain / "green" / "continual" / "page.html").read_text()
    card = (chain / "green" / "continual" / "card.md").read_text()
    assert "<script" not in page and not re.search(r"(src|href)=", page)
    assert page.count("color-mix") == 6, "the cells of the heat map"
    assert "backward transfer" in page and "| after | on red | on blue | on green |" in card


def test_what_is_measured_is_not_measured_again(
    chain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder may be named by a relative path, as in the README."""
    files = sorted((chain / "green" / "continual").glob("*/measured.json"))
    prints = [Task.open(chain / name).fingerprint for name in ("red", "blue")]
    assert [f.parent.name for f in files] == [f"{j}-{p[:12]}" for j, p in enumerate(prints)]
    before = [file.stat().st_mtime_ns for file in files]
    monkeypatch.chdir(chain)
    done = invoke("continue", "green", "--json", "-q")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["schema"] == "tunesmith.continue/1"
    assert [file.stat().st_mtime_ns for file in files] == before


def test_the_slope_is_fitted_to_earlier_runs(chain: Path) -> None:
    tasks = read_chain(Task.open(chain / "blue"))
    lines = (chain / "blue/additions/retention/kl.jsonl").read_text().splitlines()
    divergence = json.loads(lines[-1])["kl"]
    lost = read_matrix(tasks, quiet=True).last_loss
    assert lost is not None
    if lost > 0:
        score = read_matrix(tasks, quiet=True).score_after(0)
        predicted = predict_loss(divergence, predict_slope(tasks, True), score)
        assert predicted == pytest.approx(lost, rel=0.01)
    else:
        with pytest.raises(tunesmith.TunesmithError, match="no earlier run"):
            predict_slope(tasks, True)


def test_a_name_cannot_control_page_or_card(chain: Path) -> None:
    tasks = read_chain(Task.open(chain / "blue"))
    matrix = read_matrix(tasks, quiet=True)
    object.__setattr__(matrix, "names", ["<b>\x1b[31m|", "blue"])
    findings = ChainFindings(tasks, matrix)
    assert "<b>" not in render_page(findings) and "\x1b" not in render_page(findings)
    assert "\x1b" not in render_card(findings) and "\\|" in render_card(findings)


def test_changed_rows_are_not_measured_again(chain: Path, tiny_model: Path, tmp_path: Path) -> None:
    """A chain whose first task lost a row cannot be compared on the same rows."""
    first = write_task(tmp_path, tiny_model, "grey")
    assert invoke("run", first, "--out", tmp_path / "grey", "-q").exit_code == 0
    rows = tmp_path / "grey.jsonl"
    rows.write_text("".join(rows.read_text().splitlines(keepends=True)[1:]), encoding="utf-8")
    file = write_task(tmp_path, tiny_model, "pink")
    done = invoke("continue", tmp_path / "grey", file, "--out", tmp_path / "pink", "-q")
    assert done.exit_code == 2 and "its data has changed" in done.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["red", "--set", "technique.epochs=1"], "need a NEW.toml"),
        (["nowhere"], "no such folder"),
        (["red", "missing.toml"], "missing.toml"),
    ],
    ids=str,
)
def test_bad_input_is_named(chain: Path, arguments: list[str], message: str) -> None:
    run, *others = arguments
    done = invoke("continue", chain / run, *others)
    assert done.exit_code == 2 and message in " ".join(done.output.split())


def test_model_and_technique_are_inherited(chain: Path, tmp_path: Path) -> None:
    rows = write_rows(tmp_path, "violet")
    file = tmp_path / "violet.toml"
    file.write_text(tomli_w.dumps({"data": {"train": str(rows)}, "run": {"side_effects": False}}))
    arguments = ("continue", chain / "red", file, "--out", tmp_path / "run", "-q")
    done = invoke(*arguments, "--set", "technique.epochs=1")
    assert done.exit_code == 0, done.output
    plan, red = (Task.open(f).plan.to_json() for f in (tmp_path / "run", chain / "red"))
    assert plan["model"] == red["model"]
    changed = {k for k in plan["technique"] if plan["technique"][k] != red["technique"][k]}
    assert changed == {"epochs", "from"}


@pytest.fixture(scope="module")
def third(chain: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A third task with every kind of retention, and its uninterrupted run."""
    folder = tmp_path_factory.mktemp("third")
    keys: dict[str, Any] = {"replay": 0.5, "keep": 0.5, "project": 0.8, "kl_every": 2}
    file = write_task(folder, tiny_model, "gold", **keys)
    done = invoke("continue", chain / "blue", file, "--out", folder / "complete", "-q")
    assert done.exit_code == 0, done.output
    return folder


@pytest.mark.parametrize("step", [3])
def test_a_killed_third_task_ends_with_the_same_bits(
    chain: Path, third: Path, tmp_path: Path, step: int
) -> None:
    """kill -9 in its training; then ``continue`` resumes it and measures the chain."""
    killed = tmp_path / "killed"
    command = [sys.executable, "-m", "tunesmith", "continue", chain / "blue", third / "gold.toml"]
    process = subprocess.Popen(
        [*map(str, command), "--out", str(killed), "-q"],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    while not has_step(killed / "events.jsonl", step):
        assert process.poll() is None
        time.sleep(0.005)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed / "adapter").exists(), "it was killed too late"
    done = invoke("continue", killed, "-q")
    assert done.exit_code == 0, done.output
    runs = (third / "complete", killed)
    files = [(run / "adapter" / "adapter_model.safetensors").read_bytes() for run in runs]
    assert files[0] == files[1]
    found = [json.loads((run / "continual" / "chain.json").read_text()) for run in runs]
    assert found[0]["matrix"] == found[1]["matrix"]


def has_step(log: Path, step: int) -> bool:
    text = log.read_text(encoding="utf-8") if log.is_file() else ""
    return text.count('"step-finished"') >= step


def test_a_missing_run_is_named(chain: Path) -> None:
    """Its chain must not be shown as if it began later."""
    task = Task.open(chain / "green")
    config = task.plan.technique.config.model_copy(update={"initial_model": "/nowhere/blue"})
    component = replace(task.plan.technique, config=config)
    moved = replace(task, plan=replace(task.plan, technique=component))
    with pytest.raises(tunesmith.TunesmithError, match="missing: /nowhere/blue"):
        read_chain(moved)
