"""Training on pairs of completions, as a task of the trainer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tunesmith.contracts import Job
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate.policies import pair_grouping
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.preference.objective import PreferenceObjective
from tunesmith_torch.prefix.completion_groups import CompletionGroup
from tunesmith_torch.training.pair_data import PairData, fitting_pairs, pair_rows
from tunesmith_torch.training.trainer import Prepared, Session, TrainingTask


class PreferenceTask(TrainingTask[list[CompletionGroup]]):
    """Train on pairs by DPO, IPO, KTO, ORPO or SimPO."""

    def grouping(self, options: PreferenceOptions, device: str) -> Grouping:
        """Return the grouping of pairs."""
        return pair_grouping(options, device)

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> list[CompletionGroup]:
        """Return the pairs that fit; report the others."""
        return fitting_pairs(job, template, limit)

    def token_rows(
        self, data: list[CompletionGroup], template: Template
    ) -> Iterator[Sequence[int]]:
        return pair_rows(data)

    def prepare(self, session: Session, data: list[CompletionGroup]) -> Prepared:
        """Set up the loss, and compute the log-probabilities of the reference if it needs them."""
        options: PreferenceOptions = session.options
        pairs = PairData.for_model(data, session.adapted, options, session.report)
        objective = PreferenceObjective(session.adapted, pairs, options.loss)
        if options.loss.needs_reference:
            objective.load_or_compute_reference(session.job, options.micro_batch_tokens)
        details = {"loss": options.loss.type, "beta": options.loss.effective_beta}
        return Prepared(objective, session.adapted, pairs.totals, {**details, **pairs.details})
