"""Define the training task that fits a reward model to preference pairs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, cast

from tunesmith.contracts import Job
from tunesmith.records import Record
from tunesmith_plugins.techniques.rlhf.options import RewardStage
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate.policies import build_pair_grouping
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.prefix.completion_groups import require_pairs
from tunesmith_torch.prefix.group_store import GroupStore, build_group_store
from tunesmith_torch.rlhf.reward_model import BradleyTerryObjective, ModelWithRewardHead
from tunesmith_torch.training.preference_data import (
    PreferenceData,
    list_group_tokens,
    tokenize_fitting_pairs,
)
from tunesmith_torch.training.row_losses import list_row_groups
from tunesmith_torch.training.skipped_rows import count_skip_reasons
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, TrainingTask


class RewardTask(TrainingTask[GroupStore]):
    """Trains a model with a reward head, using the Bradley-Terry loss."""

    has_row_losses = True

    def grouping(self, options: RewardStage, device: str) -> Grouping:
        """Return the grouping that keeps pairs together and scores only their last tokens."""
        return build_pair_grouping(options, device, scores_last_token=True)

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> GroupStore:
        """Return the pairs that fit the maximum length, and report the skipped pairs."""
        return tokenize_fitting_pairs(job, template, limit)

    def token_rows(self, data: GroupStore, template: Template) -> Iterator[Sequence[int]]:
        return list_group_tokens(data)

    def prepare(self, session: TrainingSession, data: GroupStore) -> PreparedTraining:
        """Put a new reward head on the model, and set up the loss over the pairs."""
        options: RewardStage = session.options
        pairs = PreferenceData.for_model(data, session.adapted, options, session.report)
        net = ModelWithRewardHead.initialize(session.adapted, session.job.seed)
        return PreparedTraining(
            BradleyTerryObjective(net, pairs, options.loss),
            replace(session.adapted, model=cast(Any, net)),
            pairs.totals,
            {"loss": "bradley-terry", **options.loss.model_dump(), **pairs.details},
            affected_rows=lambda: count_skip_reasons(data.skipped),
            write_extra=net.save_head,
            is_text_model=False,
        )

    def objective_over(
        self,
        session: TrainingSession,
        prepared: PreparedTraining,
        records: Sequence[Record],
        name: str,
    ) -> BradleyTerryObjective | None:
        """Return the loss over the pairs that fit, with the reward head being trained."""
        options: RewardStage = session.options
        require_pairs(records)
        groups = build_group_store(records, session.template, session.limit)
        if not groups:
            return None
        pairs = PreferenceData.for_model(groups, session.adapted, options)
        net = cast(Any, prepared.adapted.model)
        objective = BradleyTerryObjective(net, pairs, options.loss)
        objective.row_groups = list_row_groups(records, groups.records)
        return objective
