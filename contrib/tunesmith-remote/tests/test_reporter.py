"""The reporter: it pushes beside the training, and never stops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from run_folders import add_step, make_run, read_run

from tunesmith.errors import EnvironmentProblem
from tunesmith.events import CheckpointSaved, RunStarted
from tunesmith.storage import RunFolder
from tunesmith.testing import sample_event
from tunesmith_remote.bucket import Bucket
from tunesmith_remote.pull import pull_run
from tunesmith_remote.reporter import RemoteReporter, choose_url
from tunesmith_remote.snapshot import Mirror, list_numbers

KEY = "AKIAZZ01234567890QQQ"


class Switched(MemoryFileSystem):  # type: ignore[misc]
    """A store that can be down, or hang."""

    protocol = "switched"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    is_down = False
    requests = 0
    goes_on = threading.Event()

    def ls(self, path: str, detail: bool = True, **options: Any) -> Any:
        Switched.requests += 1
        assert Switched.goes_on.wait(30)
        if Switched.is_down:
            raise ConnectionError(f"no route for {KEY}")
        return super().ls(path, detail, **options)


fsspec.register_implementation("switched", Switched, clobber=True)


@pytest.fixture
def store() -> Iterator[type[Switched]]:
    Switched.is_down, Switched.requests = False, 0
    Switched.goes_on.set()
    Switched.store.clear()
    yield Switched
    Switched.goes_on.set()


def begin(url: str | None = "switched://runs") -> RunStarted:
    return sample_event(RunStarted, plan={"remote": {"url": url}})


def wait_until(is_true: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not is_true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def save(reporter: RemoteReporter, run: Path, step: int) -> str:
    """Save a checkpoint; return the finding that its event causes, "" if there is none."""
    add_step(run, step)
    try:
        reporter.report(sample_event(CheckpointSaved, step=step))
    except EnvironmentProblem as error:
        return error.message
    return ""


def test_each_checkpoint_and_the_end_are_pushed(store: type[Switched], tmp_path: Path) -> None:
    run = make_run(tmp_path / "tickets", [])
    bucket = Bucket("switched://runs/tickets")
    with RemoteReporter(RunFolder(run)) as reporter:
        reporter.report(begin())
        for number, step in enumerate([10, 20, 30], 1):
            assert not save(reporter, run, step)
            wait_until(lambda number=number: list_numbers(bucket)[-1:] == [number])
        assert pull_run(bucket, tmp_path / "a") and read_run(tmp_path / "a") == read_run(run)
        (run / "report.json").write_text("{}")
    pull_run(bucket, tmp_path / "b")
    assert read_run(tmp_path / "b") == read_run(run)
    assert not [t for t in threading.enumerate() if t.name == "tunesmith-remote"]


@pytest.mark.parametrize("plan", [{}, {"remote": {"url": None}}])
def test_without_a_url_nothing_happens(plan: dict[str, Any], tmp_path: Path) -> None:
    before = threading.active_count()
    run = make_run(tmp_path / "run")
    with RemoteReporter(RunFolder(run)) as reporter:
        reporter.report(sample_event(RunStarted, plan=plan))
        assert not save(reporter, run, 30) and threading.active_count() == before
    assert not (run / "remote.json").exists()


def test_the_training_does_not_wait(store: type[Switched], tmp_path: Path) -> None:
    """While a push hangs, events are taken, and all their checkpoints go with the next push."""
    run = make_run(tmp_path / "run", [])
    with RemoteReporter(RunFolder(run)) as reporter:
        reporter.report(begin())
        store.goes_on.clear()
        started = time.monotonic()
        for step in range(10, 60, 10):
            assert not save(reporter, run, step)
        wait_until(lambda: store.requests)
        assert time.monotonic() - started < 20 and not store.store
        store.goes_on.set()
    bucket = Bucket("switched://runs/run")
    pull_run(bucket, tmp_path / "pulled")
    assert read_run(tmp_path / "pulled") == read_run(run)
    assert list_numbers(bucket)[-1] <= 3


def test_a_store_that_is_down_is_reported_twice_and_tried_again(
    store: type[Switched], tmp_path: Path
) -> None:
    """Three exceptions would mute the reporter."""
    run, bucket = make_run(tmp_path / "run", []), Bucket("switched://runs/run")
    findings: list[str] = []
    with RemoteReporter(RunFolder(run)) as reporter:
        reporter.report(begin())
        for period in range(4):
            store.is_down = True
            for step in (1, 2, 3):
                before = store.requests
                findings.append(save(reporter, run, 10 * period + step))
                wait_until(lambda before=before: store.requests > before)
                time.sleep(0.05)
            store.is_down = False
            numbers = list_numbers(bucket)
            findings.append(save(reporter, run, 10 * period + 4))
            wait_until(lambda numbers=numbers: list_numbers(bucket) != numbers)
            time.sleep(0.05)
    findings = list(filter(None, findings))
    assert len(findings) == 2
    assert "no route for [redacted:aws_key]; training goes on" in findings[0]
    pull_run(bucket, tmp_path / "pulled")
    assert read_run(tmp_path / "pulled") == read_run(run)


def save_damaged(reporter: RemoteReporter, run: Path, step: int) -> str:
    """Save a checkpoint, and change it before it is pushed; return the finding as :func:`save`."""
    Switched.goes_on.clear()
    finding = save(reporter, run, step)
    (run / f"checkpoints/step-{step:08d}" / "state.json").write_text("{")
    Switched.goes_on.set()
    return finding


def find_finding(reporter: RemoteReporter) -> str:
    """Return the finding that an event causes after which nothing is pushed."""
    try:
        reporter.report(begin())
    except EnvironmentProblem as error:
        return error.message
    return ""


def test_each_damaged_checkpoint_is_reported_once(store: type[Switched], tmp_path: Path) -> None:
    """Those for which a third finding would mute the reporter are named at the end."""
    run, bucket = make_run(tmp_path / "run", []), Bucket("switched://runs/run")
    reporter, findings = RemoteReporter(RunFolder(run)), list[str]()
    with pytest.raises(EnvironmentProblem) as caught, reporter:
        reporter.report(begin())
        for number, step in enumerate([10, 20, 30, 40], 1):
            assert not save_damaged(reporter, run, step)
            wait_until(lambda number=number: list_numbers(bucket)[-1:] == [number])
            if number <= 2:
                wait_until(lambda: findings.append(find_finding(reporter)) or findings[-1])
            else:
                time.sleep(0.05)
                findings.append(find_finding(reporter))
    first, second = filter(None, findings)
    assert first.startswith("checkpoints/step-00000010 is damaged and was not pushed: state.json: ")
    assert first.endswith("; training continues, and the next checkpoint triggers a new push")
    assert second.startswith("checkpoints/step-00000020 ") and "00010 " not in second
    last = caught.value.message
    counts = [last.count(f"step-000000{step} is damaged") for step in (10, 20, 30, 40)]
    assert counts == [0, 0, 1, 1]
    assert "remote push" not in last


def test_an_end_that_is_not_pushed_names_the_command(store: type[Switched], tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    reporter = RemoteReporter(RunFolder(run))
    with pytest.raises(EnvironmentProblem) as caught, reporter:
        reporter.report(begin())
        store.is_down = True
    assert f"`tunesmith remote push {run} switched://runs/run`" in caught.value.message
    assert KEY not in caught.value.message


def test_an_end_that_is_not_pushed_names_damaged_checkpoints_too(
    store: type[Switched], tmp_path: Path
) -> None:
    run = make_run(tmp_path / "run", [])
    with pytest.raises(EnvironmentProblem) as caught, RemoteReporter(RunFolder(run)) as reporter:
        reporter.report(begin())
        save_damaged(reporter, run, 10)
        wait_until(lambda: list_numbers(Bucket("switched://runs/run")))
        time.sleep(0.05)
        store.is_down = True
    assert "remote push" in caught.value.message
    assert "checkpoints/step-00000010 is damaged, not pushed" in caught.value.message


def test_a_pulled_run_is_pushed_to_where_it_came_from(tmp_path: Path) -> None:
    """Also if its folder has another name; with another [remote] url, to a new place there."""
    assert choose_url(tmp_path, "s3://b/runs", "here") == "s3://b/runs/here"
    Mirror(url="s3://b/runs/there", writer="1").write(tmp_path)
    assert choose_url(tmp_path, "s3://b/runs", "here") == "s3://b/runs/there"
    assert choose_url(tmp_path, "s3://c/runs", "here") == "s3://c/runs/here"
