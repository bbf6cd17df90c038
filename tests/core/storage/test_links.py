"""Nothing is written, truncated or deleted through a symbolic link out of a run folder."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from bench import Bench

from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.storage import EventLog, RunFolder, lock, write_atomic
from tunesmith.storage.atomic import refuse_outside_links

FILES = (
    "lock",
    "run.toml",
    "events.jsonl",
    "report.json",
    "report.html",
    "chosen.json",
    "initial_model.json",
    "postmortem.json",
    "stage.json",
    "supervised/stage.json",
)
FOLDERS = ("checkpoints", "artifact", "evaluations", "supervised", "merged")
PRECIOUS = b"what nobody may touch\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run folder with the usual files."""
    folder = RunFolder.create(tmp_path / "runs", "x").path
    for name in FILES:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"")
    for name in FOLDERS:
        (folder / name).mkdir(exist_ok=True)
    return folder


def replace_by_link(path: Path, target: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    path.symlink_to(target)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_is_a_link_out_of_the_folder_is_refused(
    run: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "precious"
    target.write_bytes(PRECIOUS)
    replace_by_link(run / name, target)
    with pytest.raises(UsageError, match="symbolic link") as caught:
        RunFolder.open(run)
    assert str(run / name) in caught.value.message and str(target) in caught.value.message
    with pytest.raises(UsageError, match="symbolic link"), lock(run):
        pass
    assert target.read_bytes() == PRECIOUS


@pytest.mark.parametrize("name", FOLDERS)
def test_a_folder_that_is_a_link_out_of_the_folder_is_refused(
    run: Path, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "precious"
    (target / "step-00000001").mkdir(parents=True)
    replace_by_link(run / name, target)
    with pytest.raises(UsageError, match="symbolic link"):
        RunFolder.open(run)
    with pytest.raises(UsageError, match="symbolic link"), lock(run):
        pass


def test_the_lock_itself_never_follows_a_link(run: Path) -> None:
    (run / "inside").write_bytes(PRECIOUS)
    replace_by_link(run / "lock", Path("inside"))
    with pytest.raises(EnvironmentProblem, match="symbolic link"), lock(run):
        pass
    assert (run / "inside").read_bytes() == PRECIOUS


def test_the_event_log_never_follows_a_link(run: Path) -> None:
    (run / "inside").write_bytes(PRECIOUS)
    replace_by_link(run / "events.jsonl", Path("inside"))
    with pytest.raises(EnvironmentProblem, match="symbolic link"):
        EventLog(run / "events.jsonl")
    assert (run / "inside").read_bytes() == PRECIOUS


def test_an_atomic_write_replaces_the_link_and_not_its_target(run: Path, tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_bytes(PRECIOUS)
    replace_by_link(run / "report.json", target)
    write_atomic(run / "report.json", "{}")
    assert target.read_bytes() == PRECIOUS
    assert not (run / "report.json").is_symlink()


def test_links_within_the_folder_and_to_the_folder_are_fine(run: Path, tmp_path: Path) -> None:
    (run / "latest").symlink_to("checkpoints")
    (run / "absolute").symlink_to(run / "report.json")
    (tmp_path / "alias").symlink_to(run)
    for folder in (run, tmp_path / "alias"):
        refuse_outside_links(folder)
        with lock(RunFolder.open(folder).path):
            pass


def test_a_replaced_folder_that_is_a_link_is_refused(run: Path, tmp_path: Path) -> None:
    """It would be renamed back into place."""
    (run / ".old-merged").symlink_to(tmp_path)
    with pytest.raises(UsageError, match="old-merged"), lock(run):
        pass


def test_a_link_to_a_missing_file_elsewhere_is_refused(run: Path, tmp_path: Path) -> None:
    (run / "nowhere").symlink_to(tmp_path / "missing")
    with pytest.raises(UsageError, match="nowhere"):
        refuse_outside_links(run)


def test_a_run_with_a_linked_lock_is_not_resumed(bench: Bench, tmp_path: Path) -> None:
    bench.run()
    target = tmp_path / "precious"
    target.write_bytes(PRECIOUS)
    replace_by_link(tmp_path / "out" / "lock", target)
    with pytest.raises(UsageError, match="symbolic link"):
        bench.run(resume=True)
    assert target.read_bytes() == PRECIOUS


def test_a_file_that_is_removed_meanwhile_is_no_device(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run's own process is at work: its files come and go."""
    walked = [(str(run.resolve()), [".staging-1"], ["lease"])]
    monkeypatch.setattr("os.walk", lambda root: walked)
    refuse_outside_links(run)
