"""Start, resume and open runs from Python."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith import api, distributed
from tunesmith.contracts import TextModel
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.report import Report
from tunesmith.plan import Plan
from tunesmith.storage import RunFolder
from tunesmith_evidence.report.model_card import write_model_card
from tunesmith_evidence.report.view import ReportView
from tunesmith_evidence.review.policy import ReviewPolicy, find_policies
from tunesmith_python.comparison import RunComparison, compare_runs
from tunesmith_python.html import report_to_html

MODELS = ("tuned", "base")


@dataclass(frozen=True)
class Run:
    """A run that has been started, with its results and models."""

    path: Path
    """The run folder."""
    trust_plugins: bool = False
    """True: :meth:`model` executes the plugin files that the run names without asking."""

    @property
    def report(self) -> Report:
        """The report, built from the events at each access, even while the run is in progress."""
        return api.read_report(self.path)

    @property
    def plan(self) -> Plan:
        """The plan that the run was started with.

        Raises:
            UsageError: the run ended before its plan was stored, or refers to code that is not
                trusted.
        """
        return api.load_run(self.path, trust_plugins=self.trust_plugins)[1]

    def model(self, name: str = "tuned") -> TextModel:
        """Load a model of the run from disk: ``tuned``, or ``base`` for the untouched base model.

        ``model.generate(["a prompt"], 64)`` returns a greedy answer of at most 64 tokens for each
        prompt. A prompt is a text, or a tuple of messages. Each call of this method loads the
        weights again.

        Raises:
            UsageError: the model does not exist, or the run has not trained it yet.
        """
        if name not in MODELS:
            what = f'unknown model "{name}": a run has the models {" and ".join(MODELS)}'
            raise UsageError(what)
        folder, plan, _ = api.load_run(self.path, trust_plugins=self.trust_plugins)
        models = api.open_models(folder, plan, tuned=name == "tuned", base=name == "base")
        return models[name]

    def review(self, name: str = "tuned") -> ReviewPolicy:
        """Return the review policy of a model of the run: ``tuned``, or the name of a baseline.

        ``run.review().answer(run.model(), ["a prompt"], 64)`` returns answers with their
        confidence, and whether a person must check them.

        Raises:
            UsageError: the ``review`` evaluator did not measure the model.
        """
        found = find_policies([*self.report.measured.values()]).get(name)
        if found is None:
            hint = 'add [[evaluators]] use = "review" to the run file'
            raise UsageError(f"{self.path}: there is no review policy for {name!r}", hint=hint)
        return found

    def compare(self, other: Run, *, confidence: float = 0.95) -> RunComparison:
        """Compare the tuned model of this run with the tuned model of another run.

        This is a paired comparison on the common test rows of both runs. Each difference is this
        run minus ``other``, with its interval.

        Raises:
            UsageError: the runs share no metrics or no test rows.
        """
        return compare_runs(other.path, self.path, confidence=confidence)

    def _repr_html_(self) -> str:
        """Return the verdict and the scores as HTML, for notebooks."""
        return report_to_html(self.path.name, ReportView(self.report, self.path))


def run(
    run_file: api.RunFileLike,
    *,
    set: Mapping[str, Any] | None = None,
    out: api.PathLike | None = None,
    force: bool = False,
) -> Run:
    """Execute a run file, like ``tunesmith run``, and return the run.

    Args:
        run_file: path of the run file, or its tables; paths in tables are relative to the working
            folder.
        set: overrides by dotted key, such as ``{"technique.adapter.rank": 8}``.
        out: the run folder; by default, a new one is created in ``[run] folder``.
        force: run even if the predicted memory exceeds the available memory.

    Raises:
        TunesmithError: the run ended early; its folder contains a report anyway.
    """
    if distributed.rank() > 0:
        return Run(api.run_worker_rank())
    plan, catalog = api.load_plan(run_file, sets=set or {})
    api.require_runnable(plan)
    folder = api.create_run_folder(plan, None if out is None else Path(out))
    report = execute.run(plan, catalog, folder, force=force)
    write_model_card(ReportView(report, folder.path), plan)
    return Run(folder.path)


def resume(
    folder: api.PathLike,
    *,
    accept_changes: bool = False,
    trust_plugins: bool = False,
    force: bool = False,
) -> Run:
    """Continue a run that was stopped, killed or failed, like ``tunesmith resume``.

    Args:
        folder: the run folder.
        accept_changes: continue although data, options, base model or plugins have changed.
        trust_plugins: execute the plugin files and functions that the run names, even if this user
            has not run them before.
        force: run even if the predicted memory exceeds the available memory.

    Raises:
        UsageError: the run is finished; it refers to code that is not trusted; or its data,
            options, base model or plugins have changed without ``accept_changes``.
    """
    if distributed.rank() > 0:
        return Run(api.run_worker_rank())
    run_folder, plan, catalog = api.load_run(folder, trust_plugins=trust_plugins)
    report = api.continue_run(run_folder, plan, catalog, accept_changes=accept_changes, force=force)
    write_model_card(ReportView(report, run_folder.path), plan)
    return Run(run_folder.path, trust_plugins)


def open_run(folder: api.PathLike, *, trust_plugins: bool = False) -> Run:
    """Open a run folder and return its run, whatever its state.

    No code that the folder names is executed until a model is loaded.

    Args:
        folder: the run folder.
        trust_plugins: see :class:`Run`.

    Raises:
        UsageError: the folder is not a run folder.
    """
    return Run(RunFolder.open(Path(folder)).path, trust_plugins)
