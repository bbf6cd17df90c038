"""Options of the policy loop; torch is not imported here, so that plans stay light."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunesmith_torch.options.preference import PolicyOptions
from tunesmith_torch.options.training import Tokens

_ONLY_PPO = ("gamma", "gae_lambda", "vf_coef", "kl_target")


class PolicyLoopOptions(PolicyOptions):
    """A policy that learns from rewards for what it says itself."""

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate.")
    epochs: float = Field(1.0, gt=0, le=1000, description="Passes over the prompts.")
    batch_size: int = Field(4, ge=1, le=65536, description="Prompts per rollout.")
    micro_batch_tokens: Tokens = Field(
        2048,
        description=(
            "Tokens computed at once. The answers to one prompt stay together; results do not "
            'depend on it, memory does. "auto" takes what fits into memory when the run begins.'
        ),
    )
    algorithm: Literal["ppo", "grpo", "rloo"] = Field(
        "grpo",
        description=(
            "Where the expectation comes from that rewards are compared with: a value for each "
            "token (ppo), or the other answers to the same prompt (grpo, rloo)."
        ),
    )
    num_generations: int = Field(8, ge=1, le=1024, description="Answers drawn for each prompt.")
    max_new_tokens: int = Field(128, ge=1, description="Longest answer, in tokens.")
    temperature: float = Field(
        1.0, gt=0, le=10, description="Of the draws, and of the probabilities that are trained."
    )
    mask_truncated_completions: bool = Field(
        True, description="Learn nothing from answers that were cut off at answer_tokens."
    )
    max_grad_norm: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    clip_range: float = Field(
        0.2, gt=0, lt=1, description="How far a token's probability ratio counts from 1."
    )
    num_iterations: int = Field(
        1,
        ge=1,
        le=64,
        description="ppo and grpo: optimizer steps on the answers of one rollout.",
    )
    kl_coef: float = Field(
        0.05, ge=0, le=100, description="Price of a nat of divergence from the reference."
    )
    kl_target: float | None = Field(
        None,
        gt=0,
        description=(
            "ppo: divergence from the reference, in nats for each answer, towards which the price "
            "adapts, starting at kl_coef. Unset: the price is fixed."
        ),
    )
    max_kl: float = Field(
        30.0,
        ge=0,
        description=(
            "Divergence from the reference, in nats for each answer, beyond which training stops "
            "and goes back to its best checkpoint. 0: no limit."
        ),
    )
    gamma: float = Field(1.0, gt=0, le=1, description="ppo: discount for each token.")
    gae_lambda: float = Field(
        0.95, ge=0, le=1, description="ppo: how far advantages look ahead (GAE)."
    )
    vf_coef: float = Field(0.1, gt=0, le=10, description="ppo: weight of the value loss.")

    @model_validator(mode="after")
    def _of_this_algorithm(self) -> PolicyLoopOptions:
        for name in _ONLY_PPO:
            changed = getattr(self, name) != type(self).model_fields[name].default
            if self.algorithm != "ppo" and changed:
                raise ValueError(f'`{name}` is read by algorithm = "ppo" only')
        if self.algorithm != "ppo" and self.num_generations < 2:
            raise ValueError(f"`samples` must be at least 2 for {self.algorithm}")
        if self.algorithm == "rloo" and self.num_iterations > 1:
            raise ValueError("`num_iterations` must be 1 for rloo, which does not clip")
        if self.kl_target is not None and self.kl_coef == 0:
            raise ValueError("`kl_target` needs a `kl_coef` above 0 to start from")
        return self

    @property
    def needs_reference(self) -> bool:
        """Whether the divergence from the reference is looked at, as a price or as a limit."""
        return self.kl_coef > 0 or self.max_kl > 0
