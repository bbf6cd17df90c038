"""The command ``tunesmith serve``: what it opens, prints and refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tunesmith import api
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.install import install_extra
from tunesmith_evidence.winner import WINNER_FOLDER
from tunesmith_plugins.commands.serve import command
from tunesmith_plugins.commands.serve.engine import CallingEngine
from tunesmith_plugins.commands.serve.run_models import list_models, open_engines

Tunesmith = Callable[..., Result]


def test_all_models_of_a_run_are_served(finished: Path) -> None:
    folder, plan, _ = api.load_run(finished)
    assert list_models(folder, []) == ["tuned", "base"]
    assert list_models(folder, ["base"]) == ["base"]
    (finished / WINNER_FOLDER).mkdir()
    assert list_models(folder, []) == ["tuned", "base", "winner"]
    engines = open_engines(folder, plan, ["tuned"], slots=2)
    assert isinstance(engines["tuned"], CallingEngine), "it needs no tensors"


def test_a_model_that_the_run_lacks_is_named(
    tunesmith: Tunesmith, finished: Path, tmp_path: Path
) -> None:
    done = tunesmith("serve", finished, "--model", "winner")
    assert done.exit_code == 2
    assert "has no saved winner" in done.stderr and "tuned, base" in done.stderr
    assert tunesmith("run", "run.toml", "--set", "technique.mode=raise").exit_code == 8
    (run,) = (tmp_path / "runs").iterdir()
    done = tunesmith("serve", run, "--model", "tuned")
    assert done.exit_code == 2 and "no trained model yet" in done.stderr


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "LIBRARIES", ("starlette", "not_a_library"))
    with pytest.raises(
        EnvironmentProblem, match="serve needs packages that are not installed: not_a_library"
    ) as refused:
        command.require_libraries()
    assert refused.value.hint == install_extra("serve")


def test_tokens_come_from_the_environment_or_are_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SERVE_TOKEN", " abc ")
    assert command.read_token("SERVE_TOKEN", needs_token=True) == "abc"
    assert command.read_token("SERVE_TOKEN", needs_token=False) == "abc"
    assert command.read_token(None, needs_token=False) is None
    first, second = (command.read_token(None, needs_token=True) for _ in range(2))
    assert first and second and first != second and len(first) >= 32
    monkeypatch.setenv("SERVE_TOKEN", " ")
    with pytest.raises(UsageError, match="the environment variable SERVE_TOKEN is not set"):
        command.read_token("SERVE_TOKEN", needs_token=False)


def test_what_to_do_next_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    run = Path("runs/it's")
    command.show_start("http://127.0.0.1:8000", ["tuned", "base"], run, None, None)
    printed = capsys.readouterr()
    assert printed.out == "serving tuned, base at http://127.0.0.1:8000\n"
    assert "curl http://127.0.0.1:8000/v1/chat/completions -H" in printed.err
    assert '"model": "tuned"' in printed.err and "Bearer" not in printed.err
    assert "llama-server -m" in printed.err and "--to vllm" in printed.err
    assert "'runs/it'\"'\"'s'" in printed.err
    command.show_start("http://0.0.0.0:8000", ["tuned"], run, "0" * 48, None)
    printed = capsys.readouterr()
    assert printed.out.count("0" * 48) == 1
    assert 'Authorization: Bearer TOKEN"' in printed.err
    command.show_start("http://0.0.0.0:8000", ["tuned"], run, "abcdef" * 8, "MY_TOKEN")
    printed = capsys.readouterr()
    assert "abcdef" not in printed.out + printed.err
    assert 'Authorization: Bearer $MY_TOKEN"' in printed.err
