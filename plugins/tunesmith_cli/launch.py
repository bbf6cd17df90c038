"""Parts of plugins that start runs on clusters: options, run folders, and jobs."""

from __future__ import annotations

import ctypes
import json
import re
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import click
from pydantic import AfterValidator, ValidationError

from tunesmith import api
from tunesmith.config.problems import convert_problems
from tunesmith.config.trust import trust_code
from tunesmith.errors import ConfigError, RunInUseError, TunesmithError, UsageError
from tunesmith.machine import expand_home
from tunesmith.options import Options, from_table
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder, lock, write_atomic

F = TypeVar("F", bound=Callable[..., Any])
JobT = TypeVar("JobT")
OptionsT = TypeVar("OptionsT", bound=Options)

LOCK_SECONDS = 300.0
"""Seconds to wait for a process of an earlier start, which may be alive on a lost node."""
LOCK_POLL_SECONDS = 10.0
_FLAGS = "tunesmith_cli.launch.flags"
_PR_SET_PDEATHSIG = 1  # prctl(2)
_GPUS = re.compile(r"(?:([\w.-]+):)?(\d+)", re.ASCII)


@dataclass(frozen=True)
class GpuRequest:
    """The GPUs that a job asks for."""

    type: str
    """"" for any."""
    count: int
    """Number of GPUs; 0: the job trains on the CPU."""


def parse_gpus(gpus: int | str) -> GpuRequest:
    """Read a number of GPUs, or their type and number.

    Raises:
        ValueError: it is neither.
    """
    found = _GPUS.fullmatch(str(gpus))
    if not found:
        raise ValueError("must be a number, or a type and a number such as A100:2")
    return GpuRequest(found[1] or "", int(found[2]))


def _check(gpus: int | str) -> int | str:
    parse_gpus(gpus)
    return gpus


Gpus = Annotated[int | str, AfterValidator(_check)]
"""Type of an option: a number of GPUs such as 2, or with their type, A100:2."""


def refuse_unsuitable_job(
    plan: Plan, gpus: int | str, processes: int, *, table: str, hint: str
) -> None:
    """Refuse a run that a job could not execute.

    ``table`` has the key ``gpus``; ``hint`` says how to ask for one process.

    Raises:
        UsageError: a part of it trains with one process, and the job has several; or it trains on
            another device than the job has.
    """
    if processes > 1 and (part := plan.single_process_part):
        raise UsageError(
            f"{part}: cannot train with the {processes} processes of this job",
            hint=hint,
        )
    wrong = ("cpu", "mps") if parse_gpus(gpus).count else ("cuda", "mps")
    if plan.run.device.startswith(wrong):
        raise UsageError(
            f"{table}.gpus is {gpus}, and run.device is {plan.run.device}",
            hint="leave run.device out, or change one of them",
        )


# --------------------------------------------------------------------------- flags


def option_flags(options: type[Options], kinds: Mapping[str, type], table: str) -> Callable[[F], F]:
    """Return a decorator that adds a flag to a command for some options of a table.

    ``kinds``: the type of the value by key. :func:`override_options` applies what was given.
    """

    def add_flags(function: F) -> F:
        for key, kind in reversed([*kinds.items()]):
            function = click.option(
                f"--{key.replace('_', '-')}",
                key,
                type=kind,
                help=f"{options.model_fields[key].description} Overrides {table}.{key}.",
                callback=_collect,
                expose_value=False,
            )(function)
        return function

    return add_flags


def _collect(ctx: click.Context, option: click.Parameter, value: str | int | None) -> None:
    if value is not None:
        ctx.meta.setdefault(_FLAGS, {})[option.name] = value


def given_flags(ctx: click.Context) -> Mapping[str, str | int]:
    """Return the values of the flags that were given, by key."""
    given: Mapping[str, str | int] = ctx.meta.get(_FLAGS, {})
    return given


def override_options(options: OptionsT, given: Mapping[str, object], table: str) -> OptionsT:
    """Return the options of a table with other values for some keys; None leaves a key as it is.

    Raises:
        ConfigError: a key has a value that it cannot have.
    """
    values = {key: value for key, value in given.items() if value is not None}
    try:
        return from_table(type(options), {**options.model_dump(mode="json"), **values})
    except ValidationError as error:
        raise ConfigError([*convert_problems(error, table, type(options))]) from None


# --------------------------------------------------------------------------- run folders


def open_run(
    run: Path,
    *,
    sets: Sequence[str] = (),
    out: Path | None = None,
    files: Sequence[str] = (),
    disabled: Sequence[str] = (),
) -> tuple[RunFolder | None, Plan]:
    """Read a run file, or open the folder of a run; return the folder, if it is one, and the plan.

    Raises:
        UsageError: the run is finished, or values or a folder are given for a run that has its own.
    """
    if not run.is_dir():
        plan, _ = api.load_plan(run, sets=sets, files=files, disabled=disabled)
        return None, plan
    if sets or out:
        raise UsageError(
            f"{run}: is the folder of a run, whose run file stays as it is",
            hint="--set and --out go with a run file",
        )
    folder, plan, _ = api.load_run(run, files=files, disabled=disabled)
    if api.read_report(folder.path).status == "ok":
        raise UsageError(f"{run}: the run is finished", hint="tunesmith report shows its results")
    return folder, plan


def planned_folder(plan: Plan, out: Path | None) -> Path:
    """Return the folder that a dry run shows: the name of a new one is not known yet."""
    return (expand_home(out) if out else Path(plan.run.folder) / "RUN").absolute()


def create_run(plan: Plan, out: Path | None) -> RunFolder:
    """Create the folder of a run that ``tunesmith resume`` will begin elsewhere.

    Raises:
        UsageError: ``out`` exists and is not empty.
    """
    folder = api.create_run_folder(plan, out)
    _add_run_file(plan, folder)
    return folder


def create_run_once(folder: Path, make_plan: Callable[[], Plan]) -> None:
    """Create the folder of a run as :func:`create_run` does, unless an earlier start has done so.

    A folder without a run file is of a start that was ended in between; the run file is then
    written now, as the first start would have done.
    """
    run = RunFolder(folder)
    if run.run_file.is_file():
        return
    plan = make_plan()
    if not (folder / "lock").is_file():
        api.create_run_folder(plan, folder)
    _add_run_file(plan, run)


def _add_run_file(plan: Plan, folder: RunFolder) -> None:
    trust_code(plan.to_json(), folder.path)  # first: a run that has a file can be resumed
    write_atomic(folder.run_file, plan.to_toml())


def wait_for_lock(
    folder: Path,
    report: Callable[[str], None],
    seconds: float = LOCK_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until no other process works on the run; ``report`` gets a line for each wait.

    Raises:
        RunInUseError: one still does after this time.
        UsageError: the folder is none, or links out of itself: no wait changes that.
        EnvironmentProblem: its file system is full, read-only or closed to this user.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            with lock(folder):
                return
        except RunInUseError as error:
            left = deadline - time.monotonic()
            if left <= 0:
                raise
            report(f"waiting for {left:.0f} seconds at most: {error.message}")
            sleep(min(LOCK_POLL_SECONDS, left))


# --------------------------------------------------------------------------- jobs


def signal_at_end_of_parent(number: int) -> None:
    """Let the kernel send this process a signal when its parent ends; does nothing but on Linux.

    The order outlives ``exec``. The signal comes once for each thread of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def write_job(folder: Path, launcher: str, job: Any) -> None:
    """Write the job of a run, a dataclass, into the folder that a launcher has in a run folder."""
    path = folder / launcher / "job.json"
    path.parent.mkdir(exist_ok=True)
    content = {"schema": f"tunesmith.{launcher}-job/1", **asdict(job)}
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def read_job(folder: Path, launcher: str, kind: type[JobT]) -> JobT | None:
    """Return the newest job of a run, a dataclass; None if none was submitted.

    Raises:
        UsageError: the file is damaged, or ``kind`` refuses its values with a ValueError.
    """
    path = folder / launcher / "job.json"
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        values: Any = {field.name: content[field.name] for field in fields(kind)}  # type: ignore[arg-type]
        return kind(**values)
    except (ValueError, TypeError, KeyError):
        raise UsageError(f"{path}: is not what tunesmith wrote", hint="delete it") from None


def print_error(error: TunesmithError, report: Callable[[str], None]) -> int:
    """Report an error with its hint, in the process of a job; return its exit code."""
    report(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
    return error.exit_code


def read_end(path: Path, lines: int) -> Sequence[str]:
    """Return the last lines of a file; none if there is no file."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=lines)]
