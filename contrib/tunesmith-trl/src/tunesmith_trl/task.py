"""Train a policy with TRL as a task of the toolkit's trainer."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, cast

from tunesmith.contracts import Job
from tunesmith.records import Prompt
from tunesmith_torch.memory_estimate.policies import build_policy_grouping
from tunesmith_torch.memory_estimate.workload import Grouping
from tunesmith_torch.models.adapter_stack import adapt_over_merged, combine_with_initial
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.initial_model import InitialModel
from tunesmith_torch.models.loading import LoadedBase
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.rlhf.monitor import PolicyMonitor
from tunesmith_torch.rlhf.policy_objective import PolicyObjective
from tunesmith_torch.rlhf.policy_task import PolicyTask
from tunesmith_torch.rlhf.reward_source import RewardModelSource
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.training.additions import Additions
from tunesmith_torch.training.loop import Objective
from tunesmith_torch.training.monitor import TrainingMonitor
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession
from tunesmith_trl.estimate import pad_options
from tunesmith_trl.rewards import PromptTokenizer
from tunesmith_trl.trainer import run_trl_training


class TrlTask(PolicyTask):
    """Trains a policy whose completions, loss and updates TRL computes.

    TRL trains a single adapter and disables it to compute the reference. For this reason, an
    initial adapter is merged into the base model in memory, and a reward model is a separate model.
    """

    SHARES_BASE = False

    def __init__(self, reward_source: RewardModelSource | None, *, vllm: bool) -> None:
        """``reward_source`` is the reward model, or None if the rewards do not use one."""
        super().__init__(reward_source)
        self.vllm = vllm

    def grouping(self, options: PolicyOptions, device: str) -> Grouping:
        """Return the grouping that computes each sampled completion with its own prompt."""
        return build_policy_grouping(pad_options(options), device)

    def adapt(
        self, base: LoadedBase, precision: Precision, job: Job[Any], initial: InitialModel | None
    ) -> AdaptedModel:
        """Add an adapter to the base model, after merging an initial adapter into it."""
        if initial is None or initial.format == "model":
            return super().adapt(base, precision, job, initial)
        options: PolicyOptions = job.config
        return adapt_over_merged(
            base,
            precision,
            options.adapter,
            initial_model=initial,
            seed=job.seed,
            fused_kernels=options.fused_kernels,
        )

    def prepare(self, session: TrainingSession, data: list[Prompt]) -> PreparedTraining:
        """Set up rewards, objective and monitor like the toolkit, but with TRL's loop."""
        prepared = super().prepare(session, data)
        tokenizer = PromptTokenizer(session.template, data)
        loop = partial(run_loop, prompt_tokenizer=tokenizer, vllm=self.vllm)
        details = {**prepared.details, "trainer": "trl", "vllm": self.vllm}
        return replace(prepared, run_loop=loop, details=details)

    def finalize(self, session: TrainingSession) -> AdaptedModel:
        """Return the policy as a single adapter on the base model of the session."""
        initial = session.initial_model
        if initial is None or initial.format == "model":
            return super().finalize(session)
        return combine_with_initial(session.adapted, initial)


def run_loop(  # noqa: PLR0913 - the toolkit's signature, and two settings
    job: Job[Any],
    adapted: AdaptedModel,
    objective: Objective,
    *,
    seed: int,
    monitor: TrainingMonitor,
    additions: Additions,
    prompt_tokenizer: PromptTokenizer,
    vllm: bool,
) -> None:
    """Train with TRL. ``objective`` and ``monitor`` belong to a :class:`PolicyTask`.

    TRL's offers accept no additions, so ``additions`` is empty.
    """
    assert not additions.added
    run_trl_training(
        replace(job, seed=seed),
        cast(PolicyObjective, objective),
        prompt_tokenizer,
        cast(PolicyMonitor, monitor),
        vllm=vllm,
    )
