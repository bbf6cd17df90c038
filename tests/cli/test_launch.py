"""Shared parts of plugins that start runs on clusters."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import click
import pytest
from click.testing import CliRunner
from pydantic import Field, ValidationError

from tunesmith import api
from tunesmith.errors import ConfigError, EnvironmentProblem, TunesmithError, UsageError
from tunesmith.events import RunFinished
from tunesmith.options import Options
from tunesmith.plan import Plan
from tunesmith.storage import Disk, EventLog, lock
from tunesmith.testing import sample_event
from tunesmith_cli import launch
from tunesmith_cli.launch import (
    GpuRequest,
    Gpus,
    create_run,
    create_run_once,
    given_flags,
    open_run,
    option_flags,
    override_options,
    parse_gpus,
    planned_folder,
    print_error,
    read_job,
    read_last_lines,
    refuse_unsuitable_job,
    wait_for_lock,
    write_job,
)
from tunesmith_torch.testing.tiny_project import write_project


class JobOptions(Options):
    """Options with GPUs."""

    gpus: Gpus = 0
    cpus_each: int = Field(1, ge=1, description="Processor cores.")


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (0, ("", 0)),
        (2, ("", 2)),
        ("3", ("", 3)),
        ("A100:2", ("A100", 2)),
        ("h100-80.g:1", ("h100-80.g", 1)),
    ],
)
def test_gpus_are_a_number_or_a_type_and_a_number(
    gpus: int | str, expected: tuple[str, int]
) -> None:
    assert parse_gpus(gpus) == GpuRequest(*expected)
    assert JobOptions(gpus=gpus).gpus == gpus


@pytest.mark.parametrize("gpus", ["", "A100", "A100:", ":2", "two", "2:A100", "a b:1", "-1", -1])
def test_other_gpus_are_refused(gpus: int | str) -> None:
    with pytest.raises(ValueError, match="such as A100:2"):
        parse_gpus(gpus)
    with pytest.raises(ValidationError, match="such as A100:2"):
        JobOptions(gpus=gpus)


def plan(device: str = "auto", *, data_parallel: bool = True) -> Any:
    part = "" if data_parallel else "technique grow"
    return SimpleNamespace(single_process_part=part, run=SimpleNamespace(device=device))


def test_a_run_that_suits_the_job_passes() -> None:
    for suitable, gpus, processes in (
        (plan(), 0, 4),
        (plan("cpu"), 0, 1),
        (plan("cuda"), "A100:2", 2),
        (plan(data_parallel=False), 1, 1),
    ):
        refuse_unsuitable_job(suitable, gpus, processes, table="slurm", hint="--processes 1")


def test_a_run_that_does_not_suit_the_job_is_refused() -> None:
    with pytest.raises(UsageError, match="grow: cannot train with the 2 processes") as caught:
        refuse_unsuitable_job(plan(data_parallel=False), 2, 2, table="cloud", hint="--gpus 1")
    assert caught.value.hint == "--gpus 1"
    for device, gpus in (("cuda", 0), ("mps", 0), ("cpu", "A100:1"), ("mps", 1)):
        with pytest.raises(UsageError, match=f"cloud.gpus is {gpus}, but run.device is {device}"):
            refuse_unsuitable_job(plan(device), gpus, 1, table="cloud", hint="--gpus 1")


# --------------------------------------------------------------------------- flags


def parse_flags(*arguments: str) -> JobOptions:
    found: list[JobOptions] = []

    @click.command()
    @option_flags(JobOptions, {"cpus_each": int}, "job")
    def command() -> None:
        given = given_flags(click.get_current_context())
        found.append(override_options(JobOptions(gpus=2), given, "job"))

    result = CliRunner().invoke(command, arguments, standalone_mode=False)
    if result.exception:
        raise result.exception
    return found[0]


def test_a_flag_overrides_its_key_and_no_other() -> None:
    assert parse_flags() == JobOptions(gpus=2)
    assert parse_flags("--cpus-each", "3") == JobOptions(gpus=2, cpus_each=3)


def test_a_flag_with_a_wrong_value_is_a_problem_of_its_key() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_flags("--cpus-each", "0")
    assert [problem.where for problem in caught.value.problems] == ["job.cpus_each"]


def test_a_flag_that_was_not_given_changes_nothing() -> None:
    assert override_options(JobOptions(gpus=2), {"gpus": None}, "job") == JobOptions(gpus=2)


# --------------------------------------------------------------------------- run folders


def test_a_run_is_created_once_and_opened_until_it_is_finished(
    tiny_folder: Path, tmp_path: Path
) -> None:
    run_file = write_project(tmp_path, tiny_folder)
    folder, plan = open_run(run_file, sets=["run.seed=5"])
    assert folder is None and plan.run.seed == 5
    assert planned_folder(plan, None) == Path(plan.run.folder).absolute() / "RUN"
    out = tmp_path / "run"
    assert planned_folder(plan, out) == out
    assert create_run(plan, out).path == out
    with pytest.raises(UsageError, match="exists and is not empty"):
        create_run(plan, out)
    found, again = open_run(out)
    assert found is not None and found.path == out
    assert again.run.seed == 5 and api.read_report(out).started is None
    with pytest.raises(UsageError, match="and the run file in it cannot be changed"):
        open_run(out, sets=["run.seed=6"])
    finished = sample_event(RunFinished, status="ok", exit_code=0)
    with EventLog(out / "events.jsonl") as log:
        log.append({"time": 1.0, **finished.to_json()})
    with pytest.raises(UsageError, match="the run is finished"):
        open_run(out)


def test_a_run_is_created_by_its_first_start(tiny_folder: Path, tmp_path: Path) -> None:
    project = write_project(tmp_path, tiny_folder)
    plans: list[int] = []

    def make_plan(seed: int) -> Plan:
        plans.append(seed)
        return api.load_plan(project, sets=[f"run.seed={seed}"])[0]

    out = tmp_path / "run"
    create_run_once(out, lambda: make_plan(5))
    create_run_once(out, lambda: make_plan(6))
    assert plans == [5] and open_run(out)[1].run.seed == 5
    (out / "run.toml").unlink()  # as of a start that was ended before it wrote the file
    create_run_once(out, lambda: make_plan(7))
    assert open_run(out)[1].run.seed == 7


def test_a_run_whose_file_is_written_is_trusted(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start that ends in between leaves no file, so that the next one does both again."""
    plan = api.load_plan(write_project(tmp_path, tiny_folder))[0]

    def end(*given: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(launch, "trust_code", end)
        create_run_once(tmp_path / "run", lambda: plan)
    assert not (tmp_path / "run" / "run.toml").exists()
    create_run_once(tmp_path / "run", lambda: plan)
    assert open_run(tmp_path / "run")[0] is not None


def test_a_start_waits_for_a_process_that_still_has_the_run(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    waits: list[float] = []
    reported: list[str] = []
    with lock(tmp_path), pytest.raises(UsageError, match="run is in use"):
        wait_for_lock(tmp_path, reported.append, seconds=0)
    holder = lock(tmp_path)
    holder.__enter__()

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            holder.__exit__(None, None, None)

    wait_for_lock(tmp_path, reported.append, sleep=sleep)
    assert len(waits) == 2 and len(reported) == 2 and "run is in use" in reported[0]


def lead_out(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "model").symlink_to("/etc")


def make_pipe(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(folder / "rows")


def remove(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.rmdir()


def fail_to_open(number: int) -> Callable[[Path, pytest.MonkeyPatch], None]:
    def set_up(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(self: Disk, path: Path, flags: int) -> int:
            raise OSError(number, os.strerror(number), str(path))

        monkeypatch.setattr(Disk, "open", fail)

    return set_up


@pytest.mark.parametrize(
    ("set_up", "message"),
    [
        (remove, "no such folder"),
        (lead_out, "points outside the run folder"),
        (make_pipe, "is a pipe, socket or device"),
        (fail_to_open(errno.EACCES), "no permission"),
        (fail_to_open(errno.EROFS), "the file system is read-only"),
        (fail_to_open(errno.ESTALE), "it was removed or re-exported"),
        (fail_to_open(errno.ENOENT), "the folder was removed"),
    ],
)
def test_what_no_wait_can_change_fails_at_once(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    set_up: Callable[[Path, pytest.MonkeyPatch], None],
    message: str,
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    set_up(folder, monkeypatch)
    with pytest.raises(TunesmithError, match=message):
        wait_for_lock(folder, pytest.fail, sleep=lambda seconds: pytest.fail("it waits"))


def test_a_folder_that_is_closed_to_this_user_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "closed" / "run"
    folder.mkdir(parents=True)
    folder.parent.chmod(0)
    own = os.geteuid()
    os.seteuid(own or 65534)  # root may open everything
    try:
        with pytest.raises(EnvironmentProblem, match="no permission"):
            wait_for_lock(folder, pytest.fail)
    finally:
        os.seteuid(own)
        folder.parent.chmod(0o700)


def test_a_run_that_is_removed_meanwhile_is_not_waited_for(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        holder.__exit__(None, None, None)
        shutil.rmtree(folder)

    holder = lock(folder)
    holder.__enter__()
    with pytest.raises(UsageError, match="no such folder"):
        wait_for_lock(folder, lambda line: None, sleep=sleep)
    assert len(waits) == 1


def test_the_end_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a\nb\nc\n")
    assert list(read_last_lines(tmp_path / "log", 2)) == ["b", "c"]
    assert not read_last_lines(tmp_path / "none", 2)


@dataclass(frozen=True)
class Job:
    """A job of a launcher."""

    number: int
    places: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not isinstance(self.number, int):
            raise ValueError(self.number)


def test_a_job_is_written_and_read(tmp_path: Path) -> None:
    assert read_job(tmp_path, "there", Job) is None
    write_job(tmp_path, "there", Job(3, ["a"]))
    assert read_job(tmp_path, "there", Job) == Job(3, ["a"])
    path = tmp_path / "there" / "job.json"
    for text in ("", "[]", '{"number": 3}', '{"number": "3", "places": []}'):
        path.write_text(text)
        with pytest.raises(UsageError, match="is damaged or was changed"):
            read_job(tmp_path, "there", Job)


def test_an_error_is_printed_with_its_hint() -> None:
    lines: list[str] = []
    assert print_error(UsageError("what", hint="to do"), lines.append) == 2
    assert lines == ["error: what\nhint: to do"]
