"""``tunesmith verify`` finds damage in the checkpoints and the artifact of a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from tunesmith.storage import RunFolder
from tunesmith_plugins.commands.verify import list_committed

Tunesmith = Callable[..., Result]


def test_verify_finds_one_changed_byte(tunesmith: Tunesmith, finished: Path) -> None:
    assert tunesmith("verify", finished).exit_code == 0
    path = finished / "artifact" / "answers.json"
    path.write_bytes(path.read_bytes().replace(b"SAY", b"SAx", 1))
    done = tunesmith("verify", finished)
    assert done.exit_code == 7
    assert "FAIL artifact" in done.stdout and "ok   checkpoints" in done.stdout
    found = json.loads(tunesmith("verify", finished, "--json").stdout)
    assert found["ok"] is False and found["folders"]["artifact"]


@pytest.mark.parametrize("gone", ["artifact", "checkpoints/step-00000006"])
def test_verify_reports_folders_without_a_manifest(
    tunesmith: Tunesmith, finished: Path, gone: str
) -> None:
    (finished / gone / "MANIFEST.json").unlink()
    assert tunesmith("verify", finished).exit_code == 7


def test_verify_reports_a_missing_artifact(tunesmith: Tunesmith, finished: Path) -> None:
    shutil.rmtree(finished / "artifact")
    assert tunesmith("verify", finished).exit_code == 7


def test_a_run_folder_can_be_moved(tunesmith: Tunesmith, finished: Path, tmp_path: Path) -> None:
    shutil.move(finished, tmp_path / "moved")
    assert tunesmith("verify", "moved").exit_code == 0


def test_a_run_without_checkpoints_has_nothing_to_verify(
    tunesmith: Tunesmith, tmp_path: Path
) -> None:
    assert tunesmith("run", "run.toml", "--set", "run.seed=666").exit_code == 2
    (run,) = (tmp_path / "runs").iterdir()
    done = tunesmith("verify", run)
    assert done.exit_code == 0
    assert "no checkpoints and no trained model yet" in done.stderr


def test_temporary_folders_are_not_listed(finished: Path) -> None:
    before = list_committed(RunFolder.open(finished))
    assert before[0] == "artifact" and before[1].startswith("checkpoints/step-")
    shutil.copytree(finished / "artifact", finished / ".old-artifact")
    assert list_committed(RunFolder.open(finished)) == before


@pytest.mark.parametrize("artifact", ["/etc", "../outside"])
def test_an_artifact_outside_of_the_run_folder_is_refused(
    tunesmith: Tunesmith, finished: Path, artifact: str
) -> None:
    log = RunFolder(finished).events
    log.write_text(log.read_text().replace('"artifact": "artifact"', f'"artifact": "{artifact}"'))
    done = tunesmith("verify", finished)
    assert done.exit_code == 7
    assert "refers to a file outside the run folder" in done.stderr


USE_REVIEW = """
from tunesmith.contracts import Finding
from tunesmith.hookspecs import hookimpl

@hookimpl
def tunesmith_review_use(folder, use):
    (folder / "asked").write_text(use)
    {body}
"""
Seals = Callable[[str], tuple[str, str]]


@pytest.fixture
def seals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Seals:
    """A function that writes a plugin with this review, and returns the option that loads it."""
    monkeypatch.setenv("TUNESMITH_PLUGINS", "fake_plugin,seals")

    def write(body: str) -> tuple[str, str]:
        path = tmp_path / "seals.py"
        path.write_text(USE_REVIEW.format(body=body))
        return "--plugin", str(path)

    return write


@pytest.mark.parametrize(
    ("body", "exit_code"),
    [
        ("return [Finding(level='info', where='', message='signed by Ada')]", 0),
        ("return [Finding(level='error', where='seal', message='is broken')]", 7),
        ("raise ValueError('a bug in the review')", 7),
    ],
)
def test_plugins_can_verify_more(
    tunesmith: Tunesmith, finished: Path, seals: Seals, body: str, exit_code: int
) -> None:
    done = tunesmith(*seals(body), "verify", finished)
    assert done.exit_code == exit_code and (finished / "asked").read_text() == "verify"
    expected = {0: "signed by Ada", 7: "FAIL seals"}[exit_code]
    assert expected in done.stdout + done.stderr
    assert "ok   artifact" in done.stdout


@pytest.mark.parametrize("use", ["export", "push"])
@pytest.mark.parametrize("body", ["raise ValueError('a bug')", "return []"])
def test_a_failing_review_refuses_an_export_and_a_push(
    tunesmith: Tunesmith, finished: Path, seals: Seals, use: str, body: str
) -> None:
    where = ("--to", "none") if use == "export" else ("team/model", "--dry-run")
    done = tunesmith(*seals(body), use, finished, *where, "--trust-plugins")
    assert (finished / "asked").read_text() == use
    assert ("a bug" in done.stderr) == ("bug" in body), done.stderr
