"""Open the target of an evaluation: a run, an adapter, an endpoint or another model."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tunesmith import api
from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import Evaluators, default_evaluators
from tunesmith.contracts import RunContext, TextModel
from tunesmith.data.units import RecordsByUnit
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.run_data import DataParts, load_data
from tunesmith.fence import fence
from tunesmith.plan import Plan
from tunesmith.records import Record
from tunesmith.storage import RunFolder
from tunesmith_evidence.endpoint.address import check_endpoint, is_endpoint, read_token
from tunesmith_evidence.endpoint.client import Endpoint
from tunesmith_evidence.endpoint.model import ANSWER_SECONDS, EndpointModel
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.winner import has_probabilities, open_winner
from tunesmith_plugins.commands.evaluate.find import NO_WEIGHTS

TargetModel = Literal["tuned", "base", "winner"]
ADAPTER_CONFIG = "adapter_config.json"
DATA_PARTS = ("test", "validation", "test_size")
"""Data options that define splits, which a single file to evaluate on does not have."""


@dataclass(frozen=True)
class TargetChoice:
    """The target of an evaluation and its options, as given on the command line."""

    target: str
    """Run folder, adapter folder, endpoint address, or model reference."""
    data: Path | None
    """File of rows to evaluate on, or None for the run's test rows."""
    which: TargetModel
    base: str | None
    """Base model of an adapter, or None for the one in its config."""
    evaluators: Sequence[str]
    sets: Sequence[str]
    files: Sequence[str]
    disabled: Sequence[str]
    rows_of: Path | None = None
    """Run whose test rows, evaluators and system prompt apply to a target that is not a run."""
    model: str | None = None
    """Name of the model at the endpoint, or None for the only one that it lists."""
    token_variable: str | None = None

    @property
    def run(self) -> Path | None:
        """The run folder, or None if the target is not a run."""
        path = Path(self.target)
        return path if (path / "lock").is_file() else None


@dataclass(frozen=True)
class EvaluationTarget:
    """A model to evaluate, the plan that opens it, and the rows."""

    label: str
    plan: Plan
    evaluators: Evaluators
    records: Sequence[Record]
    open: Callable[[], tuple[TextModel, RunContext]]
    """A function that loads the model, or connects to the endpoint."""
    endpoint: Endpoint | None = None
    """Endpoint that receives the prompts, or None if the model runs in this process."""


def open_evaluation_target(choice: TargetChoice) -> EvaluationTarget:
    """Return the target of an evaluation, without loading its weights.

    Raises:
        UsageError: the options do not fit the target, the target cannot be used, or there are no
            rows.
    """
    _check_options(choice)
    if choice.run is not None:
        return _open_run(choice, choice.run)
    path = Path(choice.target)
    config = path / ADAPTER_CONFIG
    artifact = path.resolve() if config.is_file() else None
    base = choice.base or (_read_base(config) if artifact else choice.target)
    tables: dict[str, Any] = {
        "model": {"base": base},
        "technique": {"use": "lora" if artifact else "full"},
        "data": {"train": str(choice.data)},
    }
    parts = DataParts((), (), (), fingerprint="")
    if choice.rows_of is not None:
        _, run_plan, _ = api.load_run(choice.rows_of, files=choice.files, disabled=choice.disabled)
        parts = load_data(run_plan)[1]
        tables |= _rows_tables(run_plan, None)
    plan, catalog = _load_plan(tables, choice)
    records = load_rows(plan) if choice.rows_of is None else [*parts.test]
    if is_endpoint(choice.target):
        return _open_endpoint(choice, plan, catalog, records, parts)
    label = "adapter" if artifact else "model"
    return _build(label, plan, catalog, records, artifact, parts)


def _check_options(choice: TargetChoice) -> None:
    """Reject options that do not fit the target.

    Raises:
        UsageError: an option needs a run or an endpoint, two options conflict, or rows are missing.
    """
    for option, value in (("--model", choice.model), ("--token-variable", choice.token_variable)):
        if value is not None and not is_endpoint(choice.target):
            raise UsageError(
                f"{option}: needs an endpoint such as https://host/v1, got {choice.target}"
            )
    if choice.rows_of is not None and (choice.data is not None or choice.run is not None):
        other = "--data" if choice.run is None else "a run folder"
        raise UsageError(
            f"--rows-of and {other} cannot be combined",
            hint="omit --rows-of: a run is evaluated on its own test rows",
        )
    if choice.run is not None:
        return
    if choice.which != "tuned":
        raise UsageError(
            f"--{'base-only' if choice.which == 'base' else choice.which}: this option needs a run "
            f"folder, got {choice.target}",
            hint="pass a run folder, or omit this option",
        )
    if choice.data is None and choice.rows_of is None:
        raise UsageError(
            "--data is missing: there are no rows to evaluate on",
            hint="add --data FILE, or use the test rows of a run with --rows-of RUN",
        )


def _open_run(choice: TargetChoice, run: Path) -> EvaluationTarget:
    folder, plan, catalog = api.load_run(run, files=choice.files, disabled=choice.disabled)
    parts = load_data(plan)[1]
    records: Sequence[Record] = [*parts.test]
    if choice.data is not None or choice.evaluators or choice.sets:
        stored = plan.to_json()
        tables = {name: stored[name] for name in ("model", "technique")}
        plan, catalog = _load_plan({**tables, **_rows_tables(plan, choice.data)}, choice)
        records = load_rows(plan) if choice.data else records
    if choice.which == "winner":
        target = _build("winner", plan, catalog, records, None, parts)
        named = bool(choice.evaluators)
        return replace(
            target,
            evaluators=target.evaluators if named else select_winner_evaluators(target, folder),
            open=lambda: (open_winner(folder, plan)[1], target.open()[1]),
        )
    artifact = _find_artifact(folder) if choice.which == "tuned" else None
    return _build(choice.which, plan, catalog, records, artifact, parts)


def _rows_tables(plan: Plan, file: Path | None) -> dict[str, Any]:
    """Return the tables of a run that define its evaluation, with its own rows or a file's."""
    stored = plan.to_json()
    tables = {"plugins": stored["plugins"], "data": _replace_file(stored["data"], file)}
    if stored["evaluators"]:
        tables["evaluators"] = stored["evaluators"]
    if plan.baseline_options.system_prompt is not None:
        tables["baselines"] = {"system_prompt": plan.baseline_options.system_prompt}
    return tables


def _open_endpoint(
    choice: TargetChoice,
    plan: Plan,
    catalog: Catalog,
    records: Sequence[Record],
    parts: DataParts,
) -> EvaluationTarget:
    """Return an endpoint as a target, and request only its list of models.

    Raises:
        UsageError: the address or token is not allowed, the endpoint does not list exactly one
            model, or an evaluator needs more than generated answers.
    """
    if choice.base is not None:
        raise UsageError(
            "--base: this option only applies to adapters", hint="omit this option for an endpoint"
        )
    try:
        check_endpoint(choice.target, choice.token_variable)
    except ValueError as error:
        raise UsageError(f"cannot use the endpoint: {error}") from None
    target = _build("endpoint", plan, catalog, records, None, parts)
    evaluators = select_generating_evaluators(target.evaluators)
    skipped = [e.id for e in target.evaluators if e not in evaluators]
    if (choice.evaluators and skipped) or not evaluators:
        raise UsageError(
            f"cannot evaluate with {', '.join(skipped)}: this needs log-probabilities, which an "
            "endpoint does not return",
            hint="use another evaluator, such as --evaluator exact-match",
        )
    endpoint = Endpoint(
        choice.target, choice.model or "", choice.token_variable, timeout=ANSWER_SECONDS
    )
    read_token(choice.token_variable)
    if choice.model is None:
        endpoint = endpoint.with_only_model()
    model = EndpointModel(endpoint)
    prompt = plan.baseline_options.system_prompt

    def open_artifact(path: Path | None) -> TextModel:
        raise UsageError(
            f"{choice.target}: {NO_WEIGHTS}, but an evaluator compares with this model",
            hint="use another evaluator, such as --evaluator exact-match",
        )

    def load() -> tuple[TextModel, RunContext]:
        context = RunContext(
            model=Path(),
            device=plan.run.device,
            artifacts={},
            open=open_artifact,
            train=parts.train,
            validation=parts.validation,
        )
        return (model if prompt is None else PromptedModel(model, prompt)), context

    return replace(target, evaluators=evaluators, open=load, endpoint=endpoint)


def select_generating_evaluators(evaluators: Evaluators) -> Evaluators:
    """Return the evaluators that only need generated answers, not log-probabilities."""
    return tuple(e for e in evaluators if e.offer.generates)


def select_winner_evaluators(target: EvaluationTarget, folder: RunFolder) -> Evaluators:
    """Return the evaluators that can measure the winner. Classifiers have no log-probabilities."""
    if has_probabilities(folder):
        return target.evaluators
    return select_generating_evaluators(target.evaluators) or target.evaluators


def _find_artifact(folder: RunFolder) -> Path:
    trained = execute.load_report(folder).training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{folder.path}: the run has no trained model yet",
            hint=f"finish the run: tunesmith resume {folder.path}",
        )
    return folder.path / trained.artifact


def _build(
    label: str,
    plan: Plan,
    catalog: Catalog,
    records: Sequence[Record],
    artifact: Path | None,
    parts: DataParts,
) -> EvaluationTarget:
    if not records:
        raise UsageError(
            "the data contains no rows to evaluate",
            hint="pass another file with --data FILE, or use the test rows of a run with "
            "--rows-of RUN",
        )
    evaluators = plan.evaluators or default_evaluators(catalog, records)
    if not evaluators:
        raise UsageError(
            "no evaluator fits the rows", hint="choose an evaluator with --evaluator NAME"
        )

    def load() -> tuple[TextModel, RunContext]:
        with fence(plan.technique.offered.plugin, "open", may_take_long=True):
            base = plan.found_model.fetch()
            technique = plan.technique.offer.build(plan.technique.config)

            def open_artifact(path: Path | None) -> TextModel:
                return technique.open(base, path, device=plan.run.device)

            model = open_artifact(artifact)
        prompt = plan.baseline_options.system_prompt
        if label == "base" or (label == "model" and prompt is not None):
            model = PromptedModel(model, prompt)
        artifacts = {} if artifact is None else {"": artifact}
        return model, RunContext(
            model=base,
            device=plan.run.device,
            artifacts=artifacts,
            open=open_artifact,
            train=parts.train,
            validation=parts.validation,
        )

    return EvaluationTarget(label, plan, evaluators, records, load)


def load_rows(plan: Plan) -> list[Record]:
    """Return all rows in the file to evaluate on. Rows of a group count as one unit."""
    with fence(plan.data.offered.plugin, "load"):
        rows = plan.data.offer.build(plan.data.config).load().train
    return [*RecordsByUnit(rows, plan.find_clusters)]


def _load_plan(tables: Mapping[str, Any], choice: TargetChoice) -> tuple[Plan, Catalog]:
    tables = dict(tables)
    if choice.evaluators:
        tables["evaluators"] = [{"use": name} for name in choice.evaluators]
    return api.load_plan(tables, sets=choice.sets, files=choice.files, disabled=choice.disabled)


def _replace_file(data: Mapping[str, Any], file: Path | None) -> dict[str, Any]:
    """Return the data options of a run, changed to read a different file.

    The run's options apply only if both files have the same suffix.
    """
    if file is None:
        return dict(data)
    if not isinstance(data.get("train"), str) or Path(data["train"]).suffix != file.suffix:
        return {"train": str(file.resolve())}
    kept = {key: value for key, value in data.items() if key not in DATA_PARTS}
    return {**kept, "train": str(file.resolve())}


def _read_base(config: Path) -> str:
    """Return the base model specified in an adapter's config.

    Raises:
        UsageError: the config does not specify a base model.
    """
    try:
        base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        base = None
    if not isinstance(base, str) or not base:
        raise UsageError(
            f"{config}: this file does not specify a base model",
            hint="pass the base model with --base",
        )
    return base
