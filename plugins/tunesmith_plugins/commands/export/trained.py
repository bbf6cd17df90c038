"""Find a run's trained model, its base weights, and the metric for verifying an export."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tunesmith.catalog import Catalog
from tunesmith.config.evaluators import choose_evaluators
from tunesmith.contracts import Measurement, TextModel
from tunesmith.errors import UsageError
from tunesmith.execution import execute
from tunesmith.execution.measure_part import prepare
from tunesmith.execution.run_data import load_data
from tunesmith.offers import EvaluatorOffer
from tunesmith.plan import Component, Plan
from tunesmith.records import Record
from tunesmith.storage import RunFolder
from tunesmith_torch.export.export_run import MeasureFunction, TrainedModel
from tunesmith_torch.models.artifacts import detect_artifact_format
from tunesmith_torch.models.initial_model import adapter_base_folder, find_adapter_base
from tunesmith_torch.models.loading import pick_model_precision
from tunesmith_torch.models.merging import MergeOptions
from tunesmith_torch.models.quantization import Quantization
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.runtime.device import pick_device

METRIC_ROWS = 32
"""Number of test rows used to measure the run's metric after rounding or quantizing."""
SEARCHED_ROWS = 1_000
"""Number of test rows to search for rows that an engine can score."""


def find_trained_model(folder: RunFolder, plan: Plan, catalog: Catalog) -> TrainedModel:
    """Return the trained model of a run.

    Raises:
        UsageError: the run has no trained model, or one that is not a language model.
    """
    trained = execute.load_report(folder).training_finished.get("")
    if trained is None:
        raise UsageError(
            f"{folder.path}: the run has no trained model yet",
            hint=f"finish the run: tunesmith resume {folder.path}",
        )
    artifact = folder.path / trained.artifact
    options = plan.technique.config
    if not plan.technique.offer.can_score(options):
        raise UsageError(
            f"{folder.path}: technique {plan.technique.offer.name} does not train a language model "
            "that engines could run, so there is nothing to export"
        )
    base = plan.found_model.fetch()
    if detect_artifact_format(artifact) == "adapter":
        base = (
            adapter_base_folder(base, artifact, options)
            if isinstance(options, TrainingOptions)
            else find_adapter_base(artifact, base)
        )
    test = load_data(plan)[1].test
    test = list(islice(test, SEARCHED_ROWS))
    evaluators = choose_evaluators(plan, catalog, test)
    rated = [e for e in evaluators if not e.offer.metrics[0].is_descriptive]
    return TrainedModel(
        base=base,
        artifact=artifact,
        merge=_merge_options(plan, options, base),
        test=test,
        measure=_measure(rated[0], test[:METRIC_ROWS], test) if rated and test else None,
        higher_is_better=rated[0].offer.metrics[0].higher_is_better if rated else True,
    )


def _merge_options(plan: Plan, options: Any, base: Path) -> MergeOptions:
    device = pick_device(plan.run.device)
    policy = getattr(options, "policy", options)  # with several stages: those of the last one
    training = policy if isinstance(policy, TrainingOptions) else options
    quantization = Quantization.from_options(training.adaptation.quantization)
    precision = pick_model_precision(base, device, training.precision)
    return MergeOptions(device=device, dtype=precision.dtype, quantization=quantization)


def _measure(
    evaluator: Component[EvaluatorOffer[Any]], records: Sequence[Record], test: Sequence[Record]
) -> MeasureFunction:
    def measure(model: TextModel) -> Sequence[Measurement]:
        return prepare(evaluator.offer.build(evaluator.config), test).measure(model, records)

    return measure
