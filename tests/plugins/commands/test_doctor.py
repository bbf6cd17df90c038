"""``tunesmith doctor`` checks the installation."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from tunesmith_cli.app import app
from tunesmith_plugins.commands import doctor
from tunesmith_plugins.commands.doctor import query_torch

WORKING_TORCH = {"version": "1", "threads": 1, "devices": []}


def test_a_library_that_crashes_is_reported() -> None:
    assert "code -6" in query_torch("import os; os.abort()")["error"]
    assert "no such thing" in query_torch("raise SystemExit('no such thing')")["error"]
    assert query_torch("print('noise'); print('{\"version\": \"1\"}')") == {"version": "1"}


def test_doctor_fails_where_nothing_can_train(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "query_torch", lambda: WORKING_TORCH)
    working = CliRunner().invoke(app, ["doctor"])
    assert working.exit_code == 0, working.output
    assert "memory: " in working.stdout and "techniques: " in working.stdout
    monkeypatch.setattr(doctor, "query_torch", lambda: {"error": "no torch here"})
    broken = CliRunner().invoke(app, ["doctor", "--json"])
    assert broken.exit_code == 4
    found = json.loads(broken.stdout)
    assert found["schema"] == "tunesmith.doctor/1" and not found["ok"]
    assert {
        "level": "fail",
        "subject": "torch",
        "message": "cannot be imported: no torch here",
    } in found["checks"]


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TUNESMITH_OFFLINE"])
def test_doctor_says_that_nothing_is_downloaded(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setattr(doctor, "query_torch", lambda: WORKING_TORCH)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "downloads are allowed" in CliRunner().invoke(app, ["doctor"]).stdout
    monkeypatch.setenv(variable, "yes")
    assert f"{variable} is set, so only local models" in CliRunner().invoke(app, ["doctor"]).stdout
