"""The phases of a run that need a model: measure without training, train, and measure again."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tunesmith import distributed
from tunesmith.config.evaluators import Evaluators
from tunesmith.contracts import (
    Artifact,
    Measurement,
    RunContext,
    Scorer,
    Technique,
    TextModel,
)
from tunesmith.data.subset import Subset
from tunesmith.errors import PromptTooLongError
from tunesmith.events import BASE, TUNED, FindingReported
from tunesmith.execution.baselines import BaselineChoice
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.encoder import build_baseline_task
from tunesmith.execution.evaluate import evaluate_model, exclude_prompts
from tunesmith.execution.measure_part import measure_part
from tunesmith.execution.report import TRAINING_ROWS
from tunesmith.execution.run_data import DataParts, build_job
from tunesmith.execution.suitable_baselines import choose_baselines, list_evaluators, list_excluded
from tunesmith.execution.wrapped_model import CachedModel
from tunesmith.fence import attribute_errors_to, call_in_fence
from tunesmith.fence.returned import blame_plugin, check_technique_artifact
from tunesmith.offers import BaselineOffer, EvaluatorOffer, Offered
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith.storage import Checkpoints, RunFolder

INITIAL_MODEL = "initial-model"
"""Label of the model that training started from, if that is not the base model."""


@dataclass(frozen=True)
class ModelPhases:
    """The phases of a run that need a model in memory, and their shared state."""

    plan: Plan
    technique: Technique
    model: Path
    parts: DataParts
    evaluators: Evaluators
    emit: Emitter
    folder: RunFolder

    def evaluate_untuned(self, offers: Iterable[Offered[BaselineOffer[Any]]]) -> None:
        """Evaluate the baselines, and measure the base model's abilities outside the task."""
        base = cache(lambda: self._open_model("base model", None))
        self._evaluate_baselines(offers, base)
        if self.plan.trains and self._pending_evaluators(BASE):
            self._evaluate(BASE, base())

    def _evaluate_baselines(
        self, offers: Iterable[Offered[BaselineOffer[Any]]], base: Callable[[], TextModel]
    ) -> None:
        """Choose each baseline's best variant on validation rows, and evaluate it on test rows.

        An event is emitted for each baseline in ``offers`` that suits the rows but is not used.
        """
        first = next((e for e in self.evaluators if not e.offer.is_side_effect), None)
        if first is None:
            return
        for event in list_excluded(self.plan, offers, self.parts.train, first):
            if event.baseline not in self.emit.report.baselines:
                self.emit(event)
        baselines = choose_baselines(self.plan, self.parts.train, first)
        pending = [
            baseline
            for baseline in baselines
            if self._pending_evaluators(baseline.offer.name, baseline)
        ]
        if not pending:
            return
        task, run = build_baseline_task(self.plan, self.parts.train, base), self._run_so_far()
        choice = BaselineChoice(self.plan, task, self.parts, first, run, self.emit)
        chosen, left = choice.choose(pending, self.plan.baseline_options.budget_seconds)
        for baseline, model in chosen:
            rows = choice.select_rows(baseline, len(self.parts.test), left)
            try:
                self._evaluate(baseline.offer.name, model, baseline, rows)
            except PromptTooLongError as error:
                choice.skip(baseline, error.message)

    def train(self) -> Artifact:
        """Train, unless an earlier process of this run has finished the training."""
        trained = self.emit.report.training_finished.get("")
        if trained is not None:
            return Artifact(path=self.folder.path / trained.artifact, format=trained.format)
        distributed.signal_training_start()
        # A model contains many reference cycles. Without this call, the baselines' base model
        # would still be in memory during training.
        gc.collect()
        on_problem = self._report_checkpoint_problem
        checkpoints = Checkpoints(self.folder.checkpoints, on_problem=on_problem)
        job = build_job(self.plan, self.model, self.parts, checkpoints, self.emit)
        job = replace(job, scorers=self._find_scorers())
        plugin = self.plan.technique.offered.plugin
        with self.emit.call(plugin, "train"):
            artifact = self.technique.train(job)
        with blame_plugin(plugin, "train"):
            return check_technique_artifact(artifact)

    def evaluate_stages(self, artifact: Artifact) -> None:
        """Evaluate the initial model and the artifacts of earlier stages that are text models."""
        technique = self.plan.technique
        if self._pending_evaluators(INITIAL_MODEL):
            find = technique.offer.find_initial_model
            path = call_in_fence(technique.offered, "find_initial_model", find, technique.config)
            if path is not None:
                self._evaluate(INITIAL_MODEL, self._open_model("initial model", path))
        for stage, trained in list(self.emit.report.training_finished.items()):
            path = self.folder.path / trained.artifact
            if not stage or not trained.is_text_model or path == artifact.path:
                continue
            if self._pending_evaluators(stage):
                self._evaluate(stage, self._open_model(f"{stage} model", path))

    def evaluate_tuned(self, artifact: Artifact) -> None:
        """Evaluate the final artifact, after reading it back from disk."""
        trained = self.emit.report.training_finished.get("")
        pending = [label for label in (TUNED, TRAINING_ROWS) if self._pending_evaluators(label)]
        if pending and (trained is None or trained.is_text_model):
            model = self._open_model("tuned model", artifact.path)
            for label in pending:
                self._evaluate(label, model)

    def _open_model(self, phase: str, artifact: Path | None) -> TextModel:
        gc.collect()
        with self.emit.phase(phase), self.emit.call(self.plan.technique.offered.plugin, "open"):
            return self.technique.open(self.model, artifact, device=self.plan.run.device)

    def _evaluate(
        self,
        label: str,
        model: TextModel,
        baseline: Component[BaselineOffer[Any]] | None = None,
        rows: Sequence[int] | None = None,
    ) -> None:
        run, folder = self._run_so_far(), self.folder.path
        records = self.parts.test if rows is None else Subset(self.parts.test, rows)
        if label == TRAINING_ROWS:
            records = self.parts.sample_training(self.plan.run.seed)
        plugin = baseline.offered.plugin if baseline else self.plan.technique.offered.plugin
        model = CachedModel(model)
        for evaluator in self._pending_evaluators(label, baseline):
            try:
                evaluate_model(
                    label, model, evaluator, records, self.emit, run, folder, plugin, rows
                )
            except PromptTooLongError as error:
                # Training may skip up to `max_skipped` rows that are too long, but evaluation must
                # not skip a test row.
                if label != TRAINING_ROWS:
                    raise
                records = list(exclude_prompts(records, error.prompts))
                evaluate_model(label, model, evaluator, records, self.emit, run, folder, plugin)

    def _run_so_far(self) -> RunContext:
        trained = self.emit.report.training_finished.items()
        paths = {stage: self.folder.path / event.artifact for stage, event in trained}
        return RunContext(
            model=self.model,
            train=self.parts.train,
            test=self.parts.test,
            validation=self.parts.validation,
            measure_first=self._measure_first,
            device=self.plan.run.device,
            artifacts=MappingProxyType(paths),
            open=lambda artifact: self.technique.open(
                self.model, artifact, device=self.plan.run.device
            ),
        )

    def _measure_first(self, model: TextModel, records: Sequence[Record]) -> Measurement:
        return self._measure_part(self.evaluators[0], model, records)

    def _measure_part(
        self,
        evaluator: Component[EvaluatorOffer[Any]],
        model: TextModel,
        records: Sequence[Record],
    ) -> Measurement:
        offer = evaluator.offer
        with attribute_errors_to(evaluator.offered.plugin):
            built = offer.build(evaluator.config)
            measured = measure_part(offer, built, model, records, self._run_so_far())
            return next(m for m in measured if m.metric == offer.metrics[0].name)

    def _find_scorers(self) -> dict[str, Scorer]:
        """Return a scorer for each evaluator that rates single answers without another model.

        The keys are the ids of the evaluators.
        """
        found = {}
        for evaluator in self.evaluators:
            offer, config, metric = evaluator.offer, evaluator.config, evaluator.offer.metrics[0]
            call = partial(call_in_fence, evaluator.offered)
            if (
                offer.generates
                and metric.is_row_mean
                and not (offer.is_side_effect or metric.is_descriptive)
                and call("model_count", offer.model_count, config) == 1
            ):
                limit = call("answer_limit", offer.answer_limit, config, self.parts.validation)
                measure = partial(self._measure_part, evaluator)
                found[evaluator.id] = Scorer(metric.higher_is_better, limit or 0, measure)
        return found

    def _pending_evaluators(
        self, label: str, baseline: Component[BaselineOffer[Any]] | None = None
    ) -> list[Component[EvaluatorOffer[Any]]]:
        """Return the evaluators that still have to evaluate the model ``label`` in this run."""
        measured = (self.emit.report.measured | self.emit.report.training_rows).values()
        done = {
            (e.model, e.evaluator) for e in measured if (self.folder.path / e.records).is_file()
        }
        return [
            evaluator
            for evaluator in (
                list_evaluators(self.evaluators, baseline) if baseline else self.evaluators
            )
            if (label, evaluator.id) not in done
            and (label != TRAINING_ROWS or evaluator.offer.on_training_rows)
            and (label in (BASE, TUNED) if evaluator.offer.is_side_effect else label != BASE)
        ]

    def _report_checkpoint_problem(self, text: str) -> None:
        self.emit(FindingReported(level="warning", source="checkpoints", message=text))
