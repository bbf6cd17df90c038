"""What the command line does, as functions: a notebook and a terminal take the same path.

::

    import tunesmith

    report = tunesmith.run("run.toml", sets=["technique.rank=8"])
    print(report.finished.verdict["sentence"])
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from tunesmith import distributed, plugins
from tunesmith.catalog import Catalog, NotOffered
from tunesmith.config import read_plan as planning
from tunesmith.config.run_file import RunFile, read_run_file
from tunesmith.contracts import TextModel
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.events import from_json
from tunesmith.execution import execute, worker_rank
from tunesmith.execution.report import Report
from tunesmith.offers import ReporterOffer
from tunesmith.plan import Component, Plan
from tunesmith.plugins import Selection, blame
from tunesmith.storage import RunFolder, atomic, read_events

PathLike = str | os.PathLike[str]


def run(
    run_file: PathLike,
    *,
    sets: Sequence[str] = (),
    out: PathLike | None = None,
    force: bool = False,
) -> Report:
    """Carry out a run file and return what came of it.

    Args:
        sets: overrides, each as ``technique.rank=8``.
        out: the run's folder; without it, a new one is made below ``[run] folder``.
        force: begin although the run does not fit into memory.

    Raises:
        TunesmithError: whatever ended the run; the report is in the run's folder all the same.
    """
    if distributed.number() > 0:
        return attend()
    plan, catalog = load(run_file, sets=sets)
    refuse_unrunnable(plan)
    folder = new_folder(plan, None if out is None else Path(out))
    return execute.run(plan, catalog, folder, force=force)


def resume(folder: PathLike, *, accept_drift: bool = False) -> Report:
    """Continue a run that was stopped, killed or failed.

    Raises:
        UsageError: the run has ended well; or its data, options, base model or plugins changed
            and that was not accepted.
    """
    if distributed.number() > 0:
        return attend()
    place, plan, catalog = reopen(folder)
    return go_on(place, plan, catalog, accept_drift=accept_drift)


def attend(*, files: Sequence[str] = (), disabled: Sequence[str] = ()) -> Report:
    """What a rank above 0 does in place of a run: it helps rank 0 to train.

    Returns:
        The report as rank 0 has left it, also where its run failed: that is told by rank 0.

    Raises:
        TunesmithError: this rank could not take part.
    """
    leader = distributed.Leader.find()
    with leader.followed():
        if leader.trains():
            place, plan, _ = reopen(leader.folder, files=files, disabled=disabled)
            worker_rank.train(plan, place)
        leader.wait_for_end()
    return execute.recorded(RunFolder.open(leader.folder))


def read_report(folder: PathLike) -> Report:
    """What a run's events tell, also while it runs and after it was killed."""
    return execute.recorded(RunFolder.open(Path(folder)))


def send_report(folder: PathLike, reporter: str) -> None:
    """Tell a reporter all that a run's log holds, as if the run happened now.

    The reporter is as the run file has it, otherwise as its options are by default. So a report
    can be had of a run that was killed, or with a reporter that was installed later.

    Raises:
        UsageError: no such reporter is installed.
    """
    place, plan, catalog = reopen(folder)
    component = next((c for c in plan.reporters if reporter in (c.use, c.offer.name)), None)
    if component is None:
        try:
            offered = catalog.find(ReporterOffer, reporter)
        except NotOffered as error:
            raise UsageError(f"--to: {error.what}", hint=error.hint) from None
        component = Component(offered, offered.offer.config())
    events = (from_json(line) for line in read_events(place.events))
    with (
        blame(component.offered.plugin),
        component.offer.build(component.config, place) as listener,
    ):
        for event in events:
            if event is not None:
                listener.report(event)


def load(
    run_file: PathLike,
    *,
    sets: Sequence[str] = (),
    files: Sequence[str] = (),
    disabled: Sequence[str] = (),
) -> tuple[Plan, Catalog]:
    """A run file as a checked plan, and the plugins that it was checked against.

    ``files`` and ``disabled`` add to what the file's own ``[plugins]`` says, and become part of
    the plan: a resumed run needs the same plugins.
    """
    read = read_run_file(Path(run_file), sets=sets)
    return _opened(read, files, disabled)


def reopen(
    folder: PathLike, *, files: Sequence[str] = (), disabled: Sequence[str] = ()
) -> tuple[RunFolder, Plan, Catalog]:
    """A run's folder with the plan that it was started with.

    What the environment says now is not asked: the stored plan is what the run began as.
    """
    place = RunFolder.open(Path(folder))
    if not place.run_file.is_file():
        raise UsageError(
            f"{place.path}: the run has no run.toml, it ended before it began",
            hint="start it again with tunesmith run",
        )
    read = read_run_file(place.run_file, environment={})
    return (place, *_opened(read, files, disabled))


def go_on(place: RunFolder, plan: Plan, catalog: Catalog, *, accept_drift: bool = False) -> Report:
    """Continue a reopened run, unless it has ended well."""
    if execute.recorded(place).status == "ok":
        raise UsageError(
            f"{place.path}: the run is finished", hint="tunesmith report shows what came of it"
        )
    refuse_unrunnable(plan)
    return execute.run(plan, catalog, place, resume=True, accept_drift=accept_drift)


def refuse_unrunnable(plan: Plan) -> None:
    """Enough of a model to plan with is not enough to run, nor are more processes always welcome.

    Raises:
        EnvironmentProblem: the model's weights are not there.
        UsageError: torchrun has started several processes, and the technique trains with one.
    """
    if distributed.count() > 1 and not plan.technique.offer.data_parallel:
        raise UsageError(
            f"technique {plan.technique.offer.name}: cannot train with the {distributed.count()} "
            "processes of torchrun",
            hint="start it without torchrun",
        )
    if plan.found_model.lacking:
        raise EnvironmentProblem(
            f"model.base: {plan.found_model.lacking}",
            hint="it can be planned, tunesmith plan RUN.toml, but not run",
        )


def new_folder(plan: Plan, out: Path | None = None) -> RunFolder:
    """A new folder for a run: exactly ``out``, or one named after the run and the time.

    Raises:
        UsageError: ``out`` exists and holds something.
    """
    if out is None:
        return RunFolder.create(Path(plan.run.folder), plan.name)
    path = out.expanduser().absolute()
    if path.is_dir() and any(path.iterdir()):
        raise UsageError(
            f"{path}: exists and is not empty", hint="choose another folder, or resume the run"
        )
    with atomic.explained(path):
        atomic.make_folder(path)
        atomic.write_new(path / "lock", b"", atomic.DISK)
    return RunFolder(path)


def open_models(
    place: RunFolder, plan: Plan, *, tuned: bool = True, base: bool = False
) -> dict[str, TextModel]:
    """The run's models, read from disk: ``tuned``, ``base``, or both.

    Raises:
        UsageError: the run has no artifact yet.
    """
    trained = execute.recorded(place).trained.get("")
    if tuned and trained is None:
        raise UsageError(
            f"{place.path}: the run has no trained model yet",
            hint=f"tunesmith resume {place.path} continues it",
        )
    artifacts = {}
    if tuned and trained is not None:
        artifacts["tuned"] = place.path / trained.artifact
    wanted: dict[str, Path | None] = {**artifacts, **({"base": None} if base else {})}
    with blame(plan.technique.offered.plugin):
        model = plan.found_model.fetch()
        technique = plan.technique.offer.build(plan.technique.config)
        return {
            name: technique.open(model, artifact, device=plan.run.device)
            for name, artifact in wanted.items()
        }


def _opened(read: RunFile, files: Sequence[str], disabled: Sequence[str]) -> tuple[Plan, Catalog]:
    read = _added(read, "files", [str(Path(file).resolve()) for file in files], "--plugin")
    read = _added(read, "disable", disabled, "--no-plugin")
    catalog = Catalog(plugins.find(_selection(read)))
    return planning.make(read, catalog), catalog


def _selection(read: RunFile) -> Selection:
    """Which plugins a run file asks for. Wrong types are left for the plan to complain about."""
    files = [str(read.folder / Path(name).expanduser()) for name in _strings(read, "files")]
    return Selection.from_environment(disabled=_strings(read, "disable"), files=files)


def _strings(read: RunFile, key: str) -> list[str]:
    table = read.tables.get("plugins")
    value = table.get(key) if isinstance(table, dict) else None
    return [v for v in value if isinstance(v, str)] if isinstance(value, list) else []


def _added(read: RunFile, key: str, values: Sequence[str], origin: str) -> RunFile:
    """The run file with more in one list of its ``[plugins]``; what is there already stays once."""
    before = _strings(read, key)
    new = [value for value in values if value not in before]
    table = read.tables.get("plugins", {})
    if not new or not isinstance(table, dict):
        return read
    return replace(
        read,
        tables={**read.tables, "plugins": {**table, key: [*before, *new]}},
        origins={**read.origins, f"plugins.{key}": origin},
    )
