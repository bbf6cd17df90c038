"""Functions that the command line and the Python API share: start, open and resume runs."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tunesmith import distributed
from tunesmith.catalog import Catalog
from tunesmith.config.read_plan import make_plan
from tunesmith.config.run_file import RunFile, read_run_file
from tunesmith.config.trust import require_trusted
from tunesmith.contracts import TextModel
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.execution import execute, worker_rank
from tunesmith.execution.report import Report
from tunesmith.fence import fence
from tunesmith.machine import expand_home
from tunesmith.plan import Plan
from tunesmith.plugins import Selection, find_plugins
from tunesmith.storage import RunFolder, atomic

PathLike = str | os.PathLike[str]
RunFileLike = PathLike | Mapping[str, Any]
"""The path of a run file, or its tables."""


def run_worker_rank(*, files: Sequence[str] = (), disabled: Sequence[str] = ()) -> Path:
    """Join rank 0's training as a worker rank (rank > 0).

    Returns:
        The run folder of rank 0, even if its run failed: rank 0 reports the error.

    Raises:
        TunesmithError: this rank could not join the training.
    """
    rank_zero = distributed.RankZero.find()
    with rank_zero.exit_with_rank_zero():
        if rank_zero.wait_for_training():
            # The user who started rank 0 has already trusted the code.
            run_folder, plan, _ = load_run(
                rank_zero.folder, files=files, disabled=disabled, trust_plugins=True
            )
            worker_rank.run_worker_rank(plan, run_folder)
        rank_zero.wait_for_end()
    return rank_zero.folder


def read_report(folder: PathLike) -> Report:
    """Build the report of a run from its events, even if the run is in progress or was killed."""
    return execute.load_report(RunFolder.open(Path(folder)))


def load_plan(
    run_file: RunFileLike,
    *,
    sets: Sequence[str] | Mapping[str, Any] = (),
    files: Sequence[str] = (),
    disabled: Sequence[str] = (),
    runnable: bool = True,
) -> tuple[Plan, Catalog]:
    """Read a run file; return the checked plan and the plugin catalog that it was checked with.

    ``files`` and ``disabled`` are added to ``[plugins]`` of the run file and become part of the
    plan, because a resumed run needs the same plugins.

    Args:
        runnable: if False, accept a plan whose libraries are not installed. The libraries of its
            data loader are always required.
    """
    source = run_file if isinstance(run_file, Mapping) else Path(run_file)
    return _make_plan(read_run_file(source, sets=sets), files, disabled, runnable=runnable)


def load_run(
    folder: PathLike,
    *,
    files: Sequence[str] = (),
    disabled: Sequence[str] = (),
    trust_plugins: bool = False,
) -> tuple[RunFolder, Plan, Catalog]:
    """Open the folder of a run; return the folder, the plan of the run and its plugin catalog.

    The plan is read from the stored ``run.toml``, which environment variables do not override.
    ``files`` and ``disabled`` are added to its ``[plugins]`` table.

    Args:
        trust_plugins: execute the plugin files and functions that the run file names, even if this
            user has not run them before. By default, the user is prompted if there is a terminal.

    Raises:
        UsageError: the folder is not a run folder, contains no run file, or its run file names code
            that is not trusted.
    """
    run_folder = RunFolder.open(Path(folder))
    if not run_folder.run_file.is_file():
        raise UsageError(
            f"{run_folder.path}: there is no run.toml: the run ended before its plan was stored",
            hint="start the run again with `tunesmith run`",
        )
    read = read_run_file(run_folder.run_file, environment={})
    require_trusted(read.tables, run_folder.path, trusted=trust_plugins)
    return (run_folder, *_make_plan(read, files, disabled, stored=True))


def continue_run(
    run_folder: RunFolder,
    plan: Plan,
    catalog: Catalog,
    *,
    accept_changes: bool = False,
    force: bool = False,
) -> Report:
    """Resume an opened run, with the same options as ``execute.run``.

    Raises:
        UsageError: the run has already finished.
    """
    if execute.load_report(run_folder).status == "ok":
        raise UsageError(
            f"{run_folder.path}: the run is finished",
            hint=f"`tunesmith report {run_folder.path}` shows its results",
        )
    require_runnable(plan)
    return execute.run(
        plan, catalog, run_folder, resume=True, accept_changes=accept_changes, force=force
    )


def require_runnable(plan: Plan) -> None:
    """Raise an error if this plan can be checked but cannot run on this machine.

    Raises:
        EnvironmentProblem: the weights of the model are missing.
        UsageError: torchrun has started several processes, but part of the plan supports only one.
    """
    processes = distributed.world_size()
    if processes > 1 and (part := plan.single_process_part):
        raise UsageError(
            f"{part}: does not support several processes, but torchrun started {processes}",
            hint="start the run without torchrun",
        )
    if plan.found_model.missing:
        raise EnvironmentProblem(
            f"model.base: {plan.found_model.missing}",
            hint="`tunesmith plan RUN.toml` needs only the model's config.json",
        )


def create_run_folder(plan: Plan, out: Path | None = None) -> RunFolder:
    """Create the folder of a run: ``out``, or a folder named after the run and the time.

    Raises:
        UsageError: ``out`` exists and is not empty, or its path is not valid UTF-8.
    """
    if out is None:
        _require_utf8(Path(plan.run.folder))
        return RunFolder.create(Path(plan.run.folder), plan.name)
    path = expand_home(out).absolute()
    _require_utf8(path)
    taken = UsageError(
        f"{path}: exists and is not empty", hint="choose another folder, or resume the run"
    )
    if path.is_dir() and any(path.iterdir()):
        raise taken
    with atomic.explain_os_errors(path):
        atomic.make_folder(path)
        try:
            atomic.write_new_file(path / "lock", b"", atomic.DISK)
        except FileExistsError:  # another process has just created a run here
            raise taken from None
    return RunFolder(path)


def _require_utf8(path: Path) -> None:
    """Raise an error if a path is not valid UTF-8, which libraries and command lines require."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        hint = "choose another folder with --out"
        raise UsageError(f"{path}: the path is not valid UTF-8", hint=hint) from None


def require_allowed(catalog: Catalog, folder: RunFolder, use: str) -> None:
    """Raise an error if a plugin refuses this use of a run's model, or fails to review it.

    Raises:
        UsageError: the finding of the plugin.
    """
    for plugin, finding in catalog.review_use(folder.path, use):
        if finding.level != "info":
            text = f"{finding.where or plugin.full_name}: {finding.message}"
            raise UsageError(text, hint=finding.hint or None)


def open_models(
    run_folder: RunFolder, plan: Plan, *, tuned: bool = True, base: bool = False
) -> dict[str, TextModel]:
    """Load the run's ``tuned`` model, its ``base`` model, or both; return them by these names.

    Raises:
        UsageError: the run has no artifact yet.
    """
    trained = execute.load_report(run_folder).training_finished.get("")
    if tuned and trained is None:
        raise UsageError(
            f"{run_folder.path}: the run has no trained model yet",
            hint=f"`tunesmith resume {run_folder.path}` continues the run",
        )
    artifacts: dict[str, Path | None] = {}
    if tuned and trained is not None:
        artifacts["tuned"] = run_folder.path / trained.artifact
    if base:
        artifacts["base"] = None
    with fence(plan.technique.offered.plugin, "open", may_take_long=True):
        model = plan.found_model.fetch()
        technique = plan.technique.offer.build(plan.technique.config)
        return {
            name: technique.open(model, artifact, device=plan.run.device)
            for name, artifact in artifacts.items()
        }


def _make_plan(
    read: RunFile, files: Sequence[str], disabled: Sequence[str], **options: bool
) -> tuple[Plan, Catalog]:
    read = _add_to_plugins(read, "files", [str(Path(file).resolve()) for file in files], "--plugin")
    read = _add_to_plugins(read, "disable", disabled, "--no-plugin")
    catalog = Catalog(find_plugins(_selection(read)))
    return make_plan(read, catalog, **options), catalog


def _selection(read: RunFile) -> Selection:
    """Return the plugins that a run file selects; ``make_plan`` reports wrong types later."""
    files = [str(read.folder / expand_home(name)) for name in _strings(read, "files")]
    return Selection.from_environment(disabled=_strings(read, "disable"), files=files)


def _strings(read: RunFile, key: str) -> list[str]:
    table = read.tables.get("plugins")
    value = table.get(key) if isinstance(table, dict) else None
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _add_to_plugins(read: RunFile, key: str, values: Sequence[str], origin: str) -> RunFile:
    """Return the run file with the missing values added to a list in its ``[plugins]`` table."""
    present = _strings(read, key)
    new = [value for value in values if value not in present]
    table = read.tables.get("plugins", {})
    if not new or not isinstance(table, dict):
        return read
    return replace(
        read,
        tables={**read.tables, "plugins": {**table, key: [*present, *new]}},
        origins={**read.origins, f"plugins.{key}": origin},
    )
