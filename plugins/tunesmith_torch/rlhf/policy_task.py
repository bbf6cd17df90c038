"""The training task of a policy: it learns from rewards, with few models in memory.

The policy, the reference and the reward model share one base model where possible
(:mod:`tunesmith_torch.rlhf.reward_source`). If all weights of the policy are trained, the reference
is a frozen copy of the initial model.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, cast

from torch import nn

from tunesmith.contracts import Job, SkippedRow
from tunesmith.errors import DataError
from tunesmith.events import JSON, FindingReported
from tunesmith.records import Preference, Prompt, Record, last_exchange
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import build_too_long_row
from tunesmith_torch.memory_estimate.policies import build_policy_grouping
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.models import artifacts
from tunesmith_torch.models.adapter_stack import combine_adapters
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.prefix.completion_groups import GroupLayout, tokenize_pairs
from tunesmith_torch.prefix.prefix_check import can_share_prefix
from tunesmith_torch.rlhf.monitor import GoldReward, PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective, PolicyWithValueHead
from tunesmith_torch.rlhf.reward_functions import FunctionReward
from tunesmith_torch.rlhf.reward_source import (
    RewardModelSource,
    build_reward,
    option_key,
    remove_reward_adapter,
)
from tunesmith_torch.rlhf.rollout import Reward
from tunesmith_torch.training.loop import BatchCounts
from tunesmith_torch.training.skipped_rows import (
    check_skipped_share,
    count_skip_reasons,
    report_skipped,
)
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession, TrainingTask

__all__ = ["PolicyTask", "select_fitting_prompts"]

PROMPT_REMEDY = "raise max_length, lower generation.max_new_tokens, or shorten these prompts"


class PolicyTask(TrainingTask[list[Prompt]]):
    """Trains a policy on rewards; if it diverges, its best checkpoint is the artifact."""

    SHARES_BASE = True
    """False if the reward model must not be an adapter in the policy's model."""

    def __init__(self, reward_source: RewardModelSource | None) -> None:
        """Keep the reward model's source; None if no reward uses a reward model."""
        self.reward_source = reward_source
        self.skipped: Sequence[SkippedRow] = ()
        """The first record of each prompt that is too long; set by :meth:`tokenize`."""

    def grouping(self, options: PolicyOptions, device: str) -> Grouping:
        """Return how rows are grouped: sampled completions by prompt."""
        return build_policy_grouping(options, device)

    def tokenize(self, job: Job[Any], template: Template, limit: int) -> list[Prompt]:
        """Return the distinct prompts of the training records that fit; report the skipped records.

        Raises:
            DataError: no prompts fit, or more are too long than ``max_skipped`` allows.
        """
        options: PolicyOptions = job.config
        limit -= options.generation.max_new_tokens
        fitting, self.skipped = select_fitting_prompts(job.train, template, limit)
        total, remedy = len(fitting) + len(self.skipped), PROMPT_REMEDY
        report_skipped(job, self.skipped)
        if not fitting:
            raise DataError(
                job.train[0].source if job.train else "data",
                f"none of the {total} prompts leaves room for a completion: a prompt may have at "
                f"most {limit} tokens",
                hint=remedy,
            )
        check_skipped_share(self.skipped, total, options.max_skipped, remedy)
        return fitting

    def token_rows(self, data: list[Prompt], template: Template) -> Iterable[Sequence[int]]:
        return template.encode_prompts(data)

    def prepare(self, session: TrainingSession, data: list[Prompt]) -> PreparedTraining:
        """Load the reward model and the reference; set up sampling, loss and monitor."""
        options: PolicyOptions = session.options
        reward_model, details = self._load_reward_model(session)
        reference = None
        if options.adaptation.adapter is None and options.needs_reference:
            reference = _load_frozen_reference(session)
        policy, packing = session.adapted, options.packing
        prompts = session.template.encode_prompts(data)
        longest = max(map(len, prompts)) + options.generation.max_new_tokens
        sharing = packing and can_share_prefix(policy.model, longest, session.report)
        layout = GroupLayout(packing, sharing)
        adapted = _add_value_head(policy) if options.algorithm == "ppo" else policy
        reward = build_reward(options.rewards, reward_model, session.job.stage)
        objective = PolicyObjective(
            adapted, session.template, data, reward, options, layout, reference
        )
        order = BatchOrder.from_options(len(data), options, session.job.seed)
        gold = gold_reward(session.job, session.template)
        monitor = PolicyMonitor(session.job, objective, reward, gold, options, steps=order.steps)
        prompt_tokens = sum(map(len, prompts))
        return PreparedTraining(
            objective,
            adapted,
            BatchCounts(prompt_tokens, 0, 1),
            {**details, **_describe(options), "shared_prompts": layout.share_prompts},
            monitor,
            count_tokens=lambda: (monitor.tokens, monitor.trained_tokens),
            affected_rows=lambda: count_skip_reasons(self.skipped),
        )

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return the policy without the reward model's adapter, as one adapter or all weights."""
        remove_reward_adapter(session.adapted)
        return combine_adapters(session.adapted)

    def _load_reward_model(self, session: TrainingSession) -> tuple[Reward | None, JSON]:
        source = self.reward_source
        share_base = self.SHARES_BASE and source is not None and source.shares_base(session)
        reward_model = None if source is None else source.load(session, share_base=share_base)
        return reward_model, {"shares_base_with_reward_model": share_base}


def select_fitting_prompts(
    records: Sequence[Record], template: Template, limit: int
) -> tuple[list[Prompt], list[SkippedRow]]:
    """Return the distinct prompts of at most ``limit`` tokens, and the rows that are too long.

    Each prompt that is too long is reported once, with its first record.
    """
    sources: dict[Prompt, str] = {}
    for record in records:
        sources.setdefault(last_exchange(record)[0], record.source)
    lengths = dict(zip(sources, map(len, template.encode_prompts([*sources])), strict=True))
    fitting = [prompt for prompt, length in lengths.items() if length <= limit]
    skipped = [
        build_too_long_row(sources[prompt], length, limit)
        for prompt, length in lengths.items()
        if length > limit
    ]
    return fitting, skipped


def gold_reward(job: Job[Any], template: Template) -> GoldReward:
    """Return the gold reward on validation rows: the user's function, or accuracy on pairs.

    It uses at most ``monitor.rows`` validation rows. Without a function and without pairs, it
    measures nothing, and a warning is emitted.

    Raises:
        UsageError: the user's function cannot be loaded.
    """
    options: PolicyOptions = job.config
    function = None
    if options.monitor.gold is not None:
        key = option_key(job.stage, "monitor.gold")
        function = FunctionReward.from_file(options.monitor.gold, key)
    records: list[Record] = list(job.validation)
    pairs = [record for record in records if isinstance(record, Preference)]
    if function is None and pairs:
        records = list(pairs)
    records = records[: options.monitor.rows]
    groups = tokenize_pairs(records, template) if function is None and pairs else []
    if function is None and not pairs:
        text = (
            "no gold reward and no validation pairs: only the KL limit can stop a policy that "
            "exploits its reward; set monitor.gold, or use pairs as validation rows"
        )
        job.emit(FindingReported(level="warning", source=job.stage, message=text))
    prompts = [last_exchange(record)[0] for record in records]
    return GoldReward(prompts, groups, function, [record.group for record in records])


def _describe(options: PolicyOptions) -> JSON:
    return {
        "algorithm": options.algorithm,
        "num_generations": options.generation.num_generations,
        "max_new_tokens": options.generation.max_new_tokens,
    }


def _load_frozen_reference(session: TrainingSession) -> nn.Module:
    """Load the initial model again as reference: full training changes the policy's weights."""
    policy, initial = session.adapted, session.initial_model
    base = load_model(
        session.folder,
        policy.base.model.device,
        policy.precision,
        packing=session.options.packing,
        fused_kernels=session.options.fused_kernels,
    )
    model: nn.Module = base.model
    if initial is not None and initial.format == "adapter":
        model = artifacts.attach_adapter(base, initial.path).merge_and_unload()
    return model.eval().requires_grad_(False)


def _add_value_head(policy: AdaptedModel) -> AdaptedModel:
    net = PolicyWithValueHead(policy.model, policy.base.config.get_text_config().hidden_size)
    net.head.to(policy.base.model.device)
    return replace(policy, model=cast(Any, net))
