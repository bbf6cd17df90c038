"""Define the options of ``trl-grpo`` and ``trl-rloo``, without importing torch or TRL.

The options combine the toolkit's option tables. Options that TRL's trainers would ignore do not
exist here, or their ignored values are rejected with the reason.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, model_validator

from tunesmith.options import Options, from_table
from tunesmith_torch.options.adaptation import Adaptation, AdapterOptions
from tunesmith_torch.options.policy import (
    GenerationOptions,
    MonitorOptions,
    PolicyOptions,
    RewardTerm,
)
from tunesmith_torch.options.training import AutoTokenCount, TrainingOptions

_OWN_KEYS = {"vllm", "reward_model"}
"""Options that the toolkit's policy options lack."""


class RlooLossOptions(Options):
    """The ``loss`` table of ``trl-rloo``: the KL divergence, and truncated completions."""

    mask_truncated_completions: bool = Field(
        default=True,
        description="Exclude completions that were cut off at max_new_tokens from the loss.",
    )
    kl_coef: float = Field(
        default=0.05,
        ge=0,
        le=100,
        description=(
            "Weight of the KL divergence from the reference (TRL's beta). With 0, TRL does not "
            "measure the divergence, so `monitor.max_kl` must also be 0."
        ),
    )


class GrpoLossOptions(RlooLossOptions):
    """The ``loss`` table of ``trl-grpo``, which adds clipping and several updates per rollout."""

    clip_range: float = Field(
        default=0.2,
        gt=0,
        lt=1,
        description=(
            "Clip each token's probability ratio to 1 - clip_range to 1 + clip_range in the loss "
            "(TRL's epsilon)."
        ),
    )
    num_iterations: int = Field(
        default=1,
        ge=1,
        le=64,
        description="Number of optimizer steps on the completions of one rollout.",
    )


class TrlOptions(TrainingOptions):
    """Options that both techniques share."""

    ALGORITHM: ClassVar[Literal["grpo", "rloo"]]

    learning_rate: float = Field(default=2e-5, gt=0, le=1, description="Peak learning rate.")
    epochs: float = Field(
        default=1.0,
        gt=0,
        le=1000,
        description="Number of passes over the prompts; can be a fraction.",
    )
    batch_size: int = Field(
        default=4,
        ge=1,
        le=65536,
        description=(
            "Number of prompts per rollout, each with `num_generations` completions. A short "
            "last batch of an epoch is filled up with the epoch's first prompts."
        ),
    )
    micro_batch_tokens: AutoTokenCount = Field(
        default=2048,
        description=(
            "Maximum tokens in a forward and backward pass, including padding. It sets TRL's "
            "per_device_train_batch_size and gradient_accumulation_steps for the longest "
            'prompt. "auto" uses what fits into memory when the run starts.'
        ),
    )
    packing: bool = Field(
        default=True,
        description=(
            "Concatenate rows instead of padding them when computing a reward model or the gold "
            "reward of test pairs. The result is the same. TRL pads its training rows."
        ),
    )
    adapter: AdapterOptions = Field(
        default_factory=AdapterOptions, description="LoRA adapters of the policy."
    )
    reward_model: str | None = Field(
        default=None,
        description=(
            "Reward model: the folder of a run that trained one with rlhf, or the folder of the "
            "model itself. It is loaded as a separate model."
        ),
        json_schema_extra={"path": True},
    )
    rewards: list[RewardTerm] = Field(
        min_length=1,
        description=(
            'Terms of the reward sum, each with a `weight`: `function = "file.py:name"`, `plugin = '
            '"package.module:name"`, or only a `weight` for the model in `reward_model`.'
        ),
    )
    generation: GenerationOptions = Field(
        default_factory=GenerationOptions, description="Sampling of the completions."
    )
    loss: RlooLossOptions = Field(
        default_factory=RlooLossOptions, description="Policy gradient and KL divergence."
    )
    monitor: MonitorOptions = Field(
        default_factory=MonitorOptions, description="Evaluations during training."
    )
    vllm: bool = Field(
        default=False,
        description=(
            "Generate the training completions with vLLM, in the same process and on the same GPU."
        ),
    )

    @property
    def adaptation(self) -> Adaptation:
        """The adaptation of the base model: LoRA adapters without quantization."""
        return Adaptation("lora", self.adapter)

    @property
    def policy_options(self) -> PolicyOptions:
        """The same options in the toolkit's format, for its objective, monitor and estimate."""
        table = self.model_dump(mode="json", by_alias=True, exclude=_OWN_KEYS)
        return from_table(PolicyOptions, {**table, "algorithm": self.ALGORITHM, "adapt": "lora"})

    @model_validator(mode="after")
    def _check_rewards(self) -> TrlOptions:
        uses_model = any(term.is_reward_model for term in self.rewards)
        if uses_model and self.reward_model is None:
            raise ValueError(
                "a term of `rewards` has neither `function` nor `plugin`, so it stands for the "
                "reward model: set `reward_model`"
            )
        if self.reward_model is not None and not uses_model:
            raise ValueError(
                "`reward_model` is not used, because every term of `rewards` is a function; add a "
                "term with only a `weight`"
            )
        return self

    @model_validator(mode="after")
    def _refuse_what_trl_ignores(self) -> TrlOptions:
        if self.adapter.dropout > 0:
            raise ValueError("TRL generates with dropout enabled, so `adapter.dropout` must be 0")
        if self.adapter.modules_to_save:
            raise ValueError("TRL uses the untrained head, so `adapter.modules_to_save` must be []")
        if self.generation.num_generations < 2:
            raise ValueError("`generation.num_generations` must be at least 2")
        if self.loss.kl_coef == 0 and self.monitor.max_kl > 0:
            raise ValueError(
                "TRL only measures the KL divergence if it has a weight, so with `loss.kl_coef = "
                "0`, `monitor.max_kl` must also be 0"
            )
        return self


class GrpoOptions(TrlOptions):
    """Options of ``trl-grpo``, which trains with group-relative policy optimization."""

    ALGORITHM = "grpo"

    loss: GrpoLossOptions = Field(
        default_factory=GrpoLossOptions, description="Policy gradient and KL divergence."
    )


class RlooOptions(TrlOptions):
    """Options of ``trl-rloo``, which trains with REINFORCE leave-one-out."""

    ALGORITHM = "rloo"
