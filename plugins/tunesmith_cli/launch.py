"""Functions for plugins that start runs on clusters: options, run folders and jobs."""

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

LOCK_TIMEOUT_SECONDS = 300.0
"""Seconds to wait for a process of an earlier start, which may still run on a lost node."""
LOCK_POLL_SECONDS = 10.0
_FLAGS = "tunesmith_cli.launch.flags"
_PR_SET_PDEATHSIG = 1  # prctl(2)
_GPUS = re.compile(r"(?:([\w.-]+):)?(\d+)", re.ASCII)


@dataclass(frozen=True)
class GpuRequest:
    """Type and number of the GPUs that a job asks its scheduler for."""

    type: str
    """GPU type, such as ``A100``, or "" for any type."""
    count: int
    """Number of GPUs, or 0 if the job trains on the CPU."""


def parse_gpus(gpus: int | str) -> GpuRequest:
    """Parse a number of GPUs such as ``2``, or a type and number such as ``A100:2``.

    Raises:
        ValueError: the value has another form.
    """
    found = _GPUS.fullmatch(str(gpus))
    if not found:
        raise ValueError(
            "must be a number of GPUs such as 2, or a type and a number such as A100:2"
        )
    return GpuRequest(found[1] or "", int(found[2]))


def _check(gpus: int | str) -> int | str:
    parse_gpus(gpus)
    return gpus


Gpus = Annotated[int | str, AfterValidator(_check)]
"""Option type: a number of GPUs such as 2, or a type and number such as A100:2."""


def refuse_unsuitable_job(
    plan: Plan, gpus: int | str, processes: int, *, table: str, hint: str
) -> None:
    """Raise an error if the processes or devices of a job do not suit this run.

    Args:
        table: name of the run file's table that contains the key ``gpus``.
        hint: what the user can do to request a single process.

    Raises:
        UsageError: a part of the run cannot use the job's several processes, or the run trains on a
            device that the job does not have.
    """
    if processes > 1 and (part := plan.single_process_part):
        raise UsageError(
            f"{part}: cannot train with the {processes} processes of this job",
            hint=hint,
        )
    wrong = ("cpu", "mps") if parse_gpus(gpus).count else ("cuda", "mps")
    if plan.run.device.startswith(wrong):
        raise UsageError(
            f"{table}.gpus is {gpus}, but run.device is {plan.run.device}",
            hint=f"remove run.device, or change {table}.gpus to match it",
        )


# --------------------------------------------------------------------------- flags


def option_flags(options: type[Options], kinds: Mapping[str, type], table: str) -> Callable[[F], F]:
    """Return a decorator that adds a command-line flag for some options of a table.

    ``kinds`` maps the key of each option to the type of its value. :func:`override_options` applies
    the flags that the user gave.
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
    """Return the values of the flags that the user gave, by key."""
    given: Mapping[str, str | int] = ctx.meta.get(_FLAGS, {})
    return given


def override_options(options: OptionsT, given: Mapping[str, object], table: str) -> OptionsT:
    """Return a table's options with these values. A value of None keeps the present value.

    Raises:
        ConfigError: a value is not valid for its key.
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
    """Read a run file or open a run folder, and return the folder (None for a file) and the plan.

    Raises:
        UsageError: the run is finished, or ``sets`` or ``out`` are given for a run folder.
    """
    if not run.is_dir():
        plan, _ = api.load_plan(run, sets=sets, files=files, disabled=disabled)
        return None, plan
    if sets or out:
        raise UsageError(
            f"{run}: this is a run folder, and the run file in it cannot be changed",
            hint="use --set and --out only with a run file",
        )
    folder, plan, _ = api.load_run(run, files=files, disabled=disabled)
    if api.read_report(folder.path).status == "ok":
        raise UsageError(f"{run}: the run is finished", hint="`tunesmith report` shows its results")
    return folder, plan


def planned_folder(plan: Plan, out: Path | None) -> Path:
    """Return the run folder to show in a dry run, with a placeholder for a new folder's name."""
    return (expand_home(out) if out else Path(plan.run.folder) / "RUN").absolute()


def create_run(plan: Plan, out: Path | None) -> RunFolder:
    """Create a run folder. ``tunesmith resume`` then starts the run, possibly on another machine.

    Raises:
        UsageError: ``out`` exists and is not empty.
    """
    folder = api.create_run_folder(plan, out)
    _add_run_file(plan, folder)
    return folder


def create_run_once(folder: Path, make_plan: Callable[[], Plan]) -> None:
    """Create a run folder as :func:`create_run` does, unless an earlier launch already did.

    If the folder exists but has no run file, the earlier launch was interrupted, so the run file is
    written now.
    """
    run = RunFolder(folder)
    if run.run_file.is_file():
        return
    plan = make_plan()
    if not (folder / "lock").is_file():
        api.create_run_folder(plan, folder)
    _add_run_file(plan, run)


def _add_run_file(plan: Plan, folder: RunFolder) -> None:
    trust_code(plan.to_json(), folder.path)  # before run.toml exists, which makes a run resumable
    write_atomic(folder.run_file, plan.to_toml())


def wait_for_lock(
    folder: Path,
    report: Callable[[str], None],
    seconds: float = LOCK_TIMEOUT_SECONDS,
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Wait until no other process uses the run, and pass ``report`` a line before each wait.

    Raises:
        RunInUseError: another process still uses the run when the time is over.
        UsageError: the folder does not exist, or contains a link that leads outside.
        EnvironmentProblem: the file system of the run folder is full, read-only or not accessible
            to this user.
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
            report(f"waiting up to {left:.0f} seconds: {error.message}")
            sleep(min(LOCK_POLL_SECONDS, left))


# --------------------------------------------------------------------------- jobs


def signal_at_end_of_parent(number: int) -> None:
    """Ask the kernel to signal this process when its parent ends; do nothing outside Linux.

    The request survives ``exec``. The kernel sends the signal once for each thread of the parent.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def write_job(folder: Path, launcher: str, job: Any) -> None:
    """Write a job (a dataclass) as JSON to the launcher's folder in a run folder."""
    path = folder / launcher / "job.json"
    path.parent.mkdir(exist_ok=True)
    content = {"schema": f"tunesmith.{launcher}-job/1", **asdict(job)}
    write_atomic(path, json.dumps(content, indent=2) + "\n")


def read_job(folder: Path, launcher: str, kind: type[JobT]) -> JobT | None:
    """Return the newest job of a run as the dataclass ``kind``, or None if no job was submitted.

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
        raise UsageError(
            f"{path}: this job file is damaged or was changed",
            hint="delete the file, then submit the run again",
        ) from None


def print_error(error: TunesmithError, report: Callable[[str], None]) -> int:
    """Print an error and its hint in the process of a job, and return the exit code."""
    report(f"error: {error.message}" + (f"\nhint: {error.hint}" if error.hint else ""))
    return error.exit_code


def read_last_lines(path: Path, lines: int) -> Sequence[str]:
    """Return the last lines of a file, or an empty list if the file does not exist."""
    if not path.is_file():
        return []
    with path.open(encoding="utf-8", errors="replace") as stream:
        return [line.rstrip("\n") for line in deque(stream, maxlen=lines)]
