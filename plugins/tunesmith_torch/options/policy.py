"""Options of the policy-gradient loop; torch is not imported here, so plans stay light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.training import AutoTokens

_PPO_OPTIONS = ("gamma", "gae_lambda", "vf_coef", "kl_target")


class PolicyLoopOptions(PolicyOptions):
    """Options of training a policy on rewards for its own completions."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "samples": "num_generations",
        "answer_tokens": "max_new_tokens",
        "mask_truncated": "mask_truncated_completions",
        "ratio_clip": "clip_range",
        "rollout_epochs": "num_iterations",
        "kl_weight": "kl_coef",
        "kl_budget": "max_kl",
        "value_weight": "vf_coef",
    }

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate.")
    epochs: float = Field(
        1.0, gt=0, le=1000, description="Passes over the prompts; may be a fraction."
    )
    batch_size: int = Field(
        4,
        ge=1,
        le=65536,
        description="Prompts per rollout; each gets `num_generations` completions.",
    )
    micro_batch_tokens: AutoTokens = Field(
        2048,
        description=(
            "Largest number of tokens in one forward and backward pass; it changes memory "
            'use but not results. The completions of one prompt stay together. "auto" uses '
            "what fits into memory when the run begins."
        ),
    )
    algorithm: Literal["ppo", "grpo", "rloo"] = Field(
        "grpo",
        description=(
            "Baseline that rewards are compared with: a value predicted for each token "
            "(ppo), or the other completions of the same prompt (grpo, rloo)."
        ),
    )
    num_generations: int = Field(8, ge=1, le=1024, description="Completions sampled per prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Largest number of tokens in a completion.")
    temperature: float = Field(
        1.0,
        gt=0,
        le=10,
        description="Sampling temperature, also applied to the probabilities in the loss.",
    )
    mask_truncated_completions: bool = Field(
        True, description="Exclude completions that were cut off at max_new_tokens from the loss."
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        description=(
            "Largest gradient norm; larger gradients are scaled down to it (gradient clipping)."
        ),
    )
    clip_range: float = Field(
        0.2,
        gt=0,
        lt=1,
        description=(
            "Clip each token's probability ratio to 1 - clip_range to 1 + clip_range in the "
            "loss (ppo, grpo)."
        ),
    )
    num_iterations: int = Field(
        1,
        ge=1,
        le=64,
        description="ppo and grpo: optimizer steps on the completions of one rollout.",
    )
    kl_coef: float = Field(
        0.05,
        ge=0,
        le=100,
        description=(
            "Weight of the KL divergence from the reference: subtracted from the reward "
            "(ppo, rloo) or added to the loss (grpo)."
        ),
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description=(
            "ppo: KL divergence from the reference, in nats per completion, that an "
            "adaptive KL coefficient aims at, starting from `kl_coef`. Unset: the "
            "coefficient is constant."
        ),
    )
    max_kl: float = Field(
        30.0,
        ge=0,
        description=(
            "KL divergence from the reference, in nats per completion, at which training "
            "stops and returns to its best checkpoint. 0: no limit."
        ),
    )
    gamma: float = Field(1.0, gt=0, le=1, description="ppo: discount factor per token.")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="ppo: lambda of generalized advantage estimation (GAE)."
    )
    vf_coef: float = Field(0.1, gt=0, le=10, description="ppo: weight of the value loss.")

    @model_validator(mode="after")
    def _check_algorithm(self) -> PolicyLoopOptions:
        for name in _PPO_OPTIONS:
            changed = getattr(self, name) != type(self).model_fields[name].default
            if self.algorithm != "ppo" and changed:
                raise ValueError(f'`{name}` is read by algorithm = "ppo" only')
        if self.algorithm != "ppo" and self.num_generations < 2:
            raise ValueError(f"`num_generations` must be at least 2 for {self.algorithm}")
        if self.algorithm == "rloo" and self.num_iterations > 1:
            raise ValueError("`num_iterations` must be 1 for rloo, which does not clip")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("`kl_target` needs a `kl_coef` above 0 as its first value")
        return self

    @property
    def needs_reference(self) -> bool:
        """True if the KL divergence from the reference is needed, as a weight or as a limit."""
        return self.kl_coef > 0 or self.max_kl > 0
