"""Supervised training of an adapter of PEFT."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import UsageError
from tunesmith_peft.data_driven import add_initialized, factors, save_as_difference
from tunesmith_peft.hidden_terms import ObjectiveWithTerm
from tunesmith_peft.methods import Method, find_method
from tunesmith_peft.options import PeftOptions
from tunesmith_peft.self_test import add_tested
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.supervised import SupervisedData, SupervisedTask
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession

__all__ = ["PeftTask", "build_task"]


class PeftTask(SupervisedTask):
    """Supervised fine-tuning of an adapter; the method decides what PEFT's forward adds."""

    def __init__(self, options: PeftOptions) -> None:
        self.method = find_method(options.method) or Method()
        self.initial: dict[str, Any] | None = None

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Add the adapter; a method that is not classified is tested first."""
        options: PeftOptions = job.config
        if find_method(options.method) is None:
            return add_tested(base, precision, options, job.seed)
        adapted = add_initialized(base, precision, job)
        if options.changes_base:
            self.initial = factors(adapted)
        return adapted

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        """Return the objective; the schedule of ranks gets the number of steps."""
        prepared = super().prepare(session, data)
        if session.options.method == "adalora" and "total_step" not in session.options.options:
            order = BatchOrder.from_options(
                len(prepared.objective), session.options, session.job.seed
            )
            model: Any = session.adapted.model
            config = model.peft_config["default"]
            if config.tinit >= order.steps - config.tfinal:
                raise UsageError(
                    f"technique.options: adalora removes ranks between step {config.tinit} (tinit) "
                    f"and step {order.steps - config.tfinal} ({order.steps} steps less tfinal), so "
                    "it would never do this",
                    hint="set a lower tinit or tfinal, or train more steps",
                )
            config.total_step = order.steps
        term = self.method.hidden_term
        return replace(prepared, details={**prepared.details, **({"term": term} if term else {})})

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return the adapter as it is saved: one for the base model as it was before."""
        if self.initial is None:
            return session.adapted
        return save_as_difference(session.adapted, self.initial)


class RowTermTask(PeftTask):
    """The task of a method whose forward adds a loss term that depends on the rows."""

    objective_class = ObjectiveWithTerm


def build_task(options: PeftOptions) -> PeftTask:
    """Return the training task of a method."""
    found = find_method(options.method)
    of_rows = found is not None and found.hidden_term == "rows"
    return RowTermTask(options) if of_rows else PeftTask(options)
