"""The chain of runs that led to a run, each trained from the result of the one before."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import Evaluators, choose_evaluators
from tunesmith.errors import UsageError
from tunesmith.events import TUNED, Measured
from tunesmith.execution import execute
from tunesmith.execution.evaluate import read_rows
from tunesmith.execution.report import Report
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.plan import Plan
from tunesmith.records import Record, last_exchange
from tunesmith.storage import RunFolder


@dataclass(frozen=True)
class Task:
    """A run of a chain: the task that it taught."""

    run: RunFolder
    plan: Plan
    catalog: Catalog
    report: Report

    @classmethod
    def open(cls, folder: Path, files: Sequence[str] = (), disabled: Sequence[str] = ()) -> Task:
        """Open a run folder.

        Raises:
            UsageError: it is not the folder of a run.
        """
        run, plan, catalog = api.load_run(folder.absolute(), files=files, disabled=disabled)
        return cls(run, plan, catalog, execute.load_report(run))

    @property
    def path(self) -> Path:
        """The run folder, as an absolute path."""
        return self.run.path

    @property
    def name(self) -> str:
        """Name of the run in tables: the one in its run file."""
        return self.plan.name

    @property
    def initial(self) -> Path | None:
        """The folder of the run that this one was trained from; None for the first task.

        Raises:
            UsageError: the model that this run was trained from is missing.
        """
        named = getattr(self.plan.technique.config, "initial_model", None)
        if not named:
            return None
        start = Path(named)
        if not start.exists():
            raise UsageError(
                f"{self.path}: the model that this run started from is missing: {start}",
                hint="restore the folder; the chain cannot be measured without it",
            )
        folders = (start, *list(start.parents)[:2])
        return next((folder for folder in folders if (folder / "lock").is_file()), None)

    @cached_property
    def data(self) -> DataParts:
        """The rows of the run, read and split again."""
        return load_data(self.plan)[1]

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the data when the run was trained; empty if the run read none."""
        return "" if self.report.data is None else self.report.data.fingerprint

    @property
    def is_unchanged(self) -> bool:
        """True if the data is the same as when the run was trained."""
        return self.fingerprint == self.data.fingerprint

    @property
    def evaluators(self) -> Evaluators:
        """The evaluators of the task itself, as in the run, without those of side effects."""
        chosen = choose_evaluators(self.plan, self.catalog, self.data.test)
        return tuple(e for e in chosen if not e.offer.is_side_effect)

    @property
    def deciding(self) -> tuple[str, str]:
        """The evaluator and the metric of the verdict, or the first ones.

        Raises:
            UsageError: the run has no test score.
        """
        verdict = self.report.verdict
        key = str(verdict.get("evaluator")), str(verdict.get("metric"))
        known = [(e.evaluator, e.metric) for e in self.report.tuned]
        if not known:
            raise UsageError(
                f"{self.path}: the tuned model has no test score",
                hint=f"finish the run: tunesmith continue {self.path}",
            )
        return key if key in known else known[0]

    def measured(self, model: str = TUNED) -> Measured | None:
        """Return a model's score by the deciding metric, with the absolute path of its rows."""
        found = self.report.measured.get((model, *self.deciding))
        return found and replace(found, records=str(self.path / found.records))

    def training_rows(self) -> list[Record]:
        """Return the training rows that still exist; no row that the run was tested on is returned.

        If rows were deleted from the data since, the split may have moved, so each row with the
        prompt of a test row (or its text, if it has no prompt) is dropped.
        """
        rows = [*self.data.train]
        if self.is_unchanged:
            return rows
        tested = {
            str(row["prompt"] or row.get("expected"))
            for event in self.report.tuned
            for row in read_rows(self.path / event.records, event.metric)
            if "prompt" in row
        }
        return [row for row in rows if _stored_prompt(row) not in tested]


def _stored_prompt(record: Record) -> str:
    """Return a record's prompt in the form that evaluations store, or its text without one."""
    prompt, answer = last_exchange(record)
    if isinstance(prompt, str):
        return prompt or answer.shown_text
    return str([[m.role, m.shown_text] for m in prompt])


def read_chain(last: Task) -> list[Task]:
    """Return the runs that led to a run, the first task first.

    Raises:
        UsageError: a run of the chain is missing or damaged, or starts from itself.
    """
    chain = [last]
    while (folder := chain[0].initial) is not None:
        if any(folder.resolve() == task.path.resolve() for task in chain):
            raise UsageError(f"{folder}: the chain of runs leads back to this run")
        chain.insert(0, Task.open(folder))
    return chain


def row_id(record: Record) -> str:
    """Return an id of a row's content, which does not depend on where the row is stored."""
    content = repr(replace(record, source=""))
    return hashlib.sha256(content.encode("utf-8", "surrogatepass")).hexdigest()[:16]
