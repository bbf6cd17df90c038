"""Options for training a policy on rewards. This module does not import torch."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith.options import Options
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.training import AutoTokenCount

__all__ = [
    "Algorithm",
    "GenerationOptions",
    "MonitorOptions",
    "PolicyLossOptions",
    "PolicyOptions",
    "RewardTerm",
]

Algorithm = Literal["ppo", "grpo", "rloo"]
_PPO_KEYS = ("gamma", "gae_lambda", "vf_coef", "kl_target")


class GenerationOptions(Options):
    """The ``generation`` table: the completions that are sampled for each prompt."""

    num_generations: int = Field(
        default=8, ge=1, le=1024, description="Completions sampled per prompt."
    )
    max_new_tokens: int = Field(
        default=128, ge=1, le=2**20, description="Maximum number of tokens in a completion."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        le=10,
        description="Sampling temperature, also applied to the probabilities in the loss.",
    )


class PolicyLossOptions(Options):
    """The ``loss`` table of a policy: the clipped policy gradient and the KL penalty."""

    mask_truncated_completions: bool = Field(
        default=True,
        description="Exclude completions cut off at max_new_tokens from the loss.",
    )
    clip_range: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description=(
            "ppo and grpo: clip each token's probability ratio to the range from 1 - clip_range "
            "to 1 + clip_range."
        ),
    )
    num_iterations: int = Field(
        default=1,
        ge=1,
        le=64,
        description="ppo and grpo: optimizer steps per rollout, on the same completions.",
    )
    kl_coef: float = Field(
        default=0.05,
        ge=0,
        le=100,
        description=(
            "Weight of the KL divergence from the reference, which is subtracted from the "
            "reward (ppo, rloo) or added to the loss (grpo)."
        ),
    )
    kl_target: float | None = Field(
        default=None,
        gt=0,
        description=(
            "ppo: target KL divergence from the reference, in nats per completion. The KL "
            "coefficient starts at `kl_coef` and adapts to reach it. Unset: the coefficient is "
            "constant."
        ),
    )
    gamma: float = Field(default=1.0, gt=0, le=1, description="ppo: discount factor per token.")
    gae_lambda: float = Field(
        default=0.95,
        ge=0,
        le=1,
        description="ppo: lambda of generalized advantage estimation (GAE).",
    )
    vf_coef: float = Field(default=0.1, gt=0, le=10, description="ppo: weight of the value loss.")


class MonitorOptions(Options):
    """The ``monitor`` table: evaluations during training, which stop a policy that diverges."""

    gold: str | None = Field(
        default=None,
        description=(
            "Gold reward: a Python function `file.py:name` that returns the true quality of "
            "a completion. It is never trained on. Unset: the fraction of validation pairs "
            "whose chosen completion has the higher mean log-probability per token under the "
            "policy."
        ),
        json_schema_extra={"path": True},
    )
    every: int = Field(
        default=10,
        ge=1,
        description=(
            "Optimizer steps between evaluations of reward and gold reward on validation rows."
        ),
    )
    rows: int = Field(default=64, ge=2, description="Validation rows per evaluation.")
    log_completions: int = Field(
        default=1,
        ge=0,
        le=100,
        description="Number of validation completions that each evaluation reports in full.",
    )
    max_kl: float = Field(
        default=30.0,
        ge=0,
        description=(
            "Maximum KL divergence from the reference, in nats per completion, averaged over "
            "five rollouts. Above it, training stops and returns to its best checkpoint. 0: no "
            "limit."
        ),
    )
    accept_divergence: bool = Field(
        default=False,
        description=(
            "Exit with code 0 even if the policy diverged and training returned to the best "
            "checkpoint."
        ),
    )


class RewardTerm(Options):
    """One term of the reward sum: the reward model or a Python function."""

    weight: float = Field(default=1.0, description="Weight of this reward in the sum.")
    function: str | None = Field(
        default=None,
        description=(
            "A Python function `file.py:name` that takes a prompt and a completion, both "
            "text, and returns a number. If `plugin` is also unset: the reward model."
        ),
        json_schema_extra={"path": True},
    )
    plugin: str | None = Field(
        default=None, description="A function in an installed package, as `package.module:name`."
    )

    @model_validator(mode="after")
    def _check_one_source(self) -> RewardTerm:
        if self.function is not None and self.plugin is not None:
            raise ValueError("`function` and `plugin` are both set; remove one")
        return self

    @property
    def is_reward_model(self) -> bool:
        """True for the reward model, False for a function."""
        return self.function is None and self.plugin is None


class PolicyOptions(ChosenAdaptationOptions):
    """Options for training a policy on rewards of completions that it samples."""

    USES_DROPOUT: ClassVar[bool] = False

    learning_rate: float = Field(default=2e-5, gt=0, le=1, description="Peak learning rate.")
    epochs: float = Field(
        default=1.0, gt=0, le=1000, description="Passes over the prompts; may be a fraction."
    )
    batch_size: int = Field(
        default=4,
        ge=1,
        le=65536,
        description="Prompts per rollout; each gets `generation.num_generations` completions.",
    )
    micro_batch_tokens: AutoTokenCount = Field(
        default=2048,
        description=(
            "Maximum number of tokens in one forward and backward pass. It changes memory "
            'use but not results. The completions of one prompt stay together. "auto": '
            "what fits in memory when the run starts."
        ),
    )
    algorithm: Algorithm = Field(
        default="grpo",
        description=(
            "Policy gradient algorithm. The reward baseline is a value predicted for each token "
            "(ppo), or comes from the completions of the same prompt (grpo, rloo)."
        ),
    )
    rewards: list[RewardTerm] = Field(
        default=[RewardTerm()],
        min_length=1,
        description=(
            "Terms of the reward sum, each with a `weight`: the reward model, `function = "
            '"file.py:name"` or `plugin = "package.module:name"`.'
        ),
    )
    generation: GenerationOptions = Field(
        default_factory=GenerationOptions, description="How completions are sampled."
    )
    loss: PolicyLossOptions = Field(
        default_factory=PolicyLossOptions, description="The policy gradient and the KL penalty."
    )
    monitor: MonitorOptions = Field(
        default_factory=MonitorOptions, description="Evaluations during training."
    )

    @model_validator(mode="after")
    def _check_algorithm(self) -> PolicyOptions:
        loss = self.loss
        for name in _PPO_KEYS:
            changed = getattr(loss, name) != PolicyLossOptions.model_fields[name].default
            if self.algorithm != "ppo" and changed:
                raise ValueError(f'`loss.{name}` only has an effect with algorithm = "ppo"')
        if self.algorithm != "ppo" and self.generation.num_generations < 2:
            raise ValueError(
                f"`generation.num_generations` must be at least 2 for {self.algorithm}"
            )
        if self.algorithm == "rloo" and loss.num_iterations > 1:
            raise ValueError("`loss.num_iterations` must be 1 for rloo, which has no clipping")
        if loss.kl_target is not None and loss.kl_coef == 0:
            raise ValueError(
                "`loss.kl_target` needs an initial coefficient: set `loss.kl_coef` above 0"
            )
        return self

    @property
    def needs_reference(self) -> bool:
        """True if the KL divergence from the reference is needed, as a penalty or as a limit."""
        return self.loss.kl_coef > 0 or self.monitor.max_kl > 0

    @property
    def needs_reward_model(self) -> bool:
        """True if a term of the reward sum is the reward model."""
        return any(part.is_reward_model for part in self.rewards)
