"""Open what is to be evaluated: a run, an adapter, or a model that was not trained here."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import Evaluators, default_evaluators
from tunesmith.contracts import RunContext, TextModel
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.run_data import load_data
from tunesmith.plan import Plan
from tunesmith.plugins import attribute_errors_to
from tunesmith.records import Record
from tunesmith.storage import RunFolder
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.winner import has_probabilities, open_winner

Which = Literal["tuned", "base", "winner"]
ADAPTER_CONFIG = "adapter_config.json"
PARTS_OF_DATA = ("heldout", "dev", "holdout")
"""Options of data that name parts, which a file to evaluate on does not have."""


@dataclass(frozen=True)
class Choice:
    """What the user chose on the command line."""

    target: str
    """Run folder, adapter folder, or reference of a model."""
    data: Path | None
    """Rows to measure on; None: the held-out rows of the run."""
    which: Which
    base: str | None
    """Base model of an adapter; None: the one that its config names."""
    evaluators: Sequence[str]
    sets: Sequence[str]
    files: Sequence[str]
    disabled: Sequence[str]

    @property
    def run(self) -> Path | None:
        """The run folder, if the target is one."""
        path = Path(self.target)
        return path if (path / "lock").is_file() else None


@dataclass(frozen=True)
class Target:
    """A model to evaluate, the plan by which it is opened, and the rows."""

    label: str
    plan: Plan
    evaluators: Evaluators
    records: Sequence[Record]
    open: Callable[[], tuple[TextModel, RunContext]]
    """Load the weights."""


def open_target(choice: Choice) -> Target:
    """Return the target; its weights are loaded later.

    Raises:
        UsageError: it is neither a run, nor an adapter, nor a model, or there are no rows.
    """
    if choice.run is not None:
        return _open_run(choice, choice.run)
    if choice.which != "tuned":
        raise UsageError(
            f"--{choice.which}: {choice.target} is not the folder of a run",
            hint="name the run folder, or the model alone",
        )
    if choice.data is None:
        raise UsageError(
            "--data: name the file with the rows to measure on",
            hint="only a run has held-out rows of its own",
        )
    path = Path(choice.target)
    config = path / ADAPTER_CONFIG
    artifact = path.resolve() if config.is_file() else None
    base = choice.base or (_read_base(config) if artifact else choice.target)
    tables = {
        "model": {"base": base},
        "technique": {"use": "lora" if artifact else "full"},
        "data": {"train": str(choice.data)},
    }
    plan, catalog = _load_plan(tables, choice)
    records = load_rows(plan)
    label = "adapter" if artifact else "model"
    return _build(label, plan, catalog, records, artifact)


def _open_run(choice: Choice, run: Path) -> Target:
    folder, plan, catalog = api.load_run(run, files=choice.files, disabled=choice.disabled)
    parts = load_data(plan)[1]
    records: Sequence[Record] = [*parts.heldout]
    if choice.data is not None or choice.evaluators or choice.sets:
        stored = plan.to_json()
        tables = {name: stored[name] for name in ("model", "technique", "plugins")}
        if stored["evaluators"]:
            tables["evaluators"] = stored["evaluators"]
        tables["data"] = _replace_file(stored["data"], choice.data)
        plan, catalog = _load_plan(tables, choice)
        records = load_rows(plan) if choice.data else records
    if choice.which == "winner":
        target = _build("winner", plan, catalog, records, None)
        named = bool(choice.evaluators)
        return Target(
            target.label, plan, target.evaluators if named else suit_winner(target, folder),
            records, lambda: (open_winner(folder, plan)[1], target.open()[1]),
        )  # fmt: skip
    artifact = _find_artifact(folder) if choice.which == "tuned" else None
    return _build(choice.which, plan, catalog, records, artifact, parts.train)


def suit_winner(target: Target, folder: RunFolder) -> Evaluators:
    """Return the evaluators that can measure the winner: a classifier has no log-probabilities."""
    if has_probabilities(folder):
        return target.evaluators
    return tuple(e for e in target.evaluators if e.offer.generates) or target.evaluators


def _find_artifact(folder: RunFolder) -> Path:
    trained = execute.load_report(folder).training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{folder.path}: the run has no trained model yet",
            hint=f"tunesmith resume {folder.path} continues it",
        )
    return folder.path / trained.artifact


def _build(
    label: str,
    plan: Plan,
    catalog: Catalog,
    records: Sequence[Record],
    artifact: Path | None,
    train: Sequence[Record] = (),
) -> Target:
    if not records:
        raise UsageError("there are no rows to measure on")
    evaluators = plan.evaluators or default_evaluators(catalog, records)
    if not evaluators:
        raise UsageError("no evaluator suits the rows", hint="name one with --evaluator")

    def load() -> tuple[TextModel, RunContext]:
        with attribute_errors_to(plan.technique.offered.plugin):
            base = plan.found_model.fetch()
            technique = plan.technique.offer.build(plan.technique.config)

            def open_artifact(path: Path | None) -> TextModel:
                return technique.open(base, path, device=plan.run.device)

            model = open_artifact(artifact)
        if label == "base":
            model = PromptedModel(model, plan.baselines.system_prompt)
        artifacts = {} if artifact is None else {"": artifact}
        return model, RunContext(
            model=base,
            device=plan.run.device,
            artifacts=artifacts,
            open=open_artifact,
            train=train,
        )

    return Target(label, plan, evaluators, records, load)


def load_rows(plan: Plan) -> list[Record]:
    """Return all rows of the file to measure on."""
    with attribute_errors_to(plan.data.offered.plugin):
        return [*plan.data.offer.build(plan.data.config).load().train]


def _load_plan(tables: Mapping[str, Any], choice: Choice) -> tuple[Plan, Catalog]:
    tables = dict(tables)
    if choice.evaluators:
        tables["evaluators"] = [{"use": name} for name in choice.evaluators]
    return api.load_plan(tables, sets=choice.sets, files=choice.files, disabled=choice.disabled)


def _replace_file(data: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the options of a run's data for another file.

    They are those of the run if both files have the same suffix; else they need not fit.
    """
    if file is None:
        return dict(data)
    if not isinstance(data.get("train"), str) or Path(data["train"]).suffix != file.suffix:
        return {"train": str(file.resolve())}
    kept = {key: value for key, value in data.items() if key not in PARTS_OF_DATA}
    return {**kept, "train": str(file.resolve())}


def _read_base(config: Path) -> str:
    """Return the base model that an adapter names.

    Raises:
        UsageError: it names none.
    """
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError):
        base = None
    if not isinstance(base, str) or not base:
        raise UsageError(f"{config}: names no base model", hint="name it with --base")
    return base
