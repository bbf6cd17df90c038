"""Define the training task of preference optimization, on pairs and on labeled answers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.records import Record
from tunesmith_plugins.techniques.preference.labels import LabelCounts, find_label_problem
from tunesmith_plugins.techniques.preference.objective import PreferenceObjective
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate.policies import build_pair_grouping
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.prefix.group_store import GroupStore, build_group_store
from tunesmith_torch.training.preference_data import (
    PreferenceData,
    list_group_tokens,
    tokenize_fitting_groups,
)
from tunesmith_torch.training.row_losses import list_row_groups
from tunesmith_torch.training.skipped_rows import count_skip_reasons
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, TrainingTask


class PreferenceTask(TrainingTask[GroupStore]):
    """Trains with DPO, IPO, KTO, ORPO or SimPO on pairs, and with KTO also on labeled answers."""

    has_row_losses = True

    def grouping(self, options: PreferenceOptions, device: str) -> Grouping:
        """Return the grouping that keeps the two completions of a pair together."""
        return build_pair_grouping(options, device)

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> GroupStore:
        """Return the rows that fit the maximum length, and report the skipped rows.

        Raises:
            DataError: no row fits, or the loss cannot learn from the rows that fit.
        """
        groups = tokenize_fitting_groups(job, template, limit)
        counts = LabelCounts.of_labels(group.labels for group in groups)
        problem = find_label_problem(counts, job.config.loss)
        if problem:
            raise DataError("data", problem)
        return groups

    def token_rows(self, data: GroupStore, template: Template) -> Iterator[Sequence[int]]:
        return list_group_tokens(data)

    def prepare(self, session: TrainingSession, data: GroupStore) -> PreparedTraining:
        """Set up the loss, with the reference log-probabilities if it needs them."""
        options: PreferenceOptions = session.options
        groups = PreferenceData.for_model(data, session.adapted, options, session.report)
        objective = PreferenceObjective(session.adapted, groups, options.loss)
        if options.loss.needs_reference:
            objective.load_or_compute_reference(session.job, options.micro_batch_tokens)
        counts = LabelCounts.of_labels(group.labels for group in data)
        details = {
            "loss": options.loss.type,
            "beta": options.loss.effective_beta,
            "good_answers": counts.good,
            "bad_answers": counts.bad,
        }
        return PreparedTraining(
            objective,
            session.adapted,
            groups.totals,
            {**details, **groups.details},
            affected_rows=lambda: count_skip_reasons(data.skipped),
        )

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> PreferenceObjective | None:
        """Return the loss over the records that fit, with the reference log-probabilities."""
        options: PreferenceOptions = session.options
        groups = build_group_store(records, session.template, session.limit)
        if not groups:
            return None
        data = PreferenceData.for_model(groups, session.adapted, options)
        objective = PreferenceObjective(session.adapted, data, options.loss)
        objective.row_groups = list_row_groups(records, groups.records)
        if options.loss.needs_reference:
            job = replace(session.job, out=session.job.out / "validation" / name)
            objective.load_or_compute_reference(job, options.micro_batch_tokens)
        return objective
