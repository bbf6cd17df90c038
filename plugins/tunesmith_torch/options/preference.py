"""Options of training on preferences; torch is not imported here, so plans stay light."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from tunesmith_torch.options.training import LoraOptions

PreferenceLoss = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
DEFAULT_BETA: dict[str, float] = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}

_LOSS_OF_OPTION = {
    "label_smoothing": "dpo",
    "margin": "simpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}
_ADAPTER_OPTIONS = (
    "rank",
    "alpha",
    "dropout",
    "target_modules",
    "modules_to_save",
    "use_rslora",
    "use_dora",
)
_QLORA_OPTIONS = ("bits", "double_quantization")


class PolicyOptions(LoraOptions):
    """Options of a policy: the weights to train, and the model to begin with."""

    model_config = ConfigDict(populate_by_name=True)

    CAN_TRUNCATE_PROMPTS: ClassVar[bool] = False
    """False where completions are compared on a prompt, which must then stay complete."""

    adapt: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description=(
            "Train LoRA adapters, LoRA adapters over a quantized base model, or all weights."
        ),
    )
    initial_model: str | None = Field(
        None,
        alias="from",
        description=(
            "Run folder, adapter folder or model folder of a fine-tuned model to begin "
            "with; it is also the reference. Unset: the base model."
        ),
        json_schema_extra={"path": True},
    )
    bits: Literal[4, 8] = Field(
        4, description="qlora: bits per weight of the base model, 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        True, description="qlora: quantize the scales of 4-bit blocks too."
    )

    @property
    def trained_weights(self) -> Literal["lora", "full"]:
        """The weights that training changes, without the storage format of the base model."""
        return "full" if self.adapt == "full" else "lora"

    @model_validator(mode="after")
    def _refuse_unused_options(self) -> PolicyOptions:
        unread = [*_ADAPTER_OPTIONS, *_QLORA_OPTIONS] if self.adapt == "full" else []
        unread += _QLORA_OPTIONS if self.adapt == "lora" else []
        kinds = dict.fromkeys(_ADAPTER_OPTIONS, 'adapt = "lora" or "qlora"')
        kinds |= dict.fromkeys(_QLORA_OPTIONS, 'adapt = "qlora"')
        for name in unread:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is read with {kinds[name]} only")
        if self.truncate_prompts and not self.CAN_TRUNCATE_PROMPTS:
            raise ValueError("`truncate_prompts` is read by supervised training only")
        return self


class PairOptions(PolicyOptions):
    """Options that all training on pairs of completions shares."""

    epochs: float = Field(
        1.0, gt=0, le=1000, description="Passes over the training data; may be a fraction."
    )
    share_prompts: bool = Field(
        True,
        description=(
            "Compute a prompt once for both of its completions, if device and model support "
            "it. Faster, with the same result. Needs packing."
        ),
    )


class PreferenceOptions(PairOptions):
    """Options of preference optimization (DPO and related losses)."""

    learning_rate: float = Field(
        2e-5,
        gt=0,
        le=1,
        description="Peak learning rate; about a tenth of the rate for supervised LoRA.",
    )
    loss: PreferenceLoss = Field(
        "dpo",
        description=(
            "dpo, ipo and kto compare with a reference model; orpo and simpo need none and "
            "use the mean log-probability of a completion's tokens."
        ),
    )
    beta: float | None = Field(
        None,
        gt=0,
        le=1000,
        description=(
            "Scale of the implicit rewards: larger values keep the policy closer to the "
            "reference. For orpo the weight of the odds ratio. Unset: 0.1, for simpo 2."
        ),
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="dpo: assumed fraction of pairs whose labels are swapped."
    )
    margin: float = Field(
        1.0,
        ge=0,
        le=100,
        description=(
            "simpo: margin (gamma) by which the loss pushes the reward of the chosen "
            "completion above the other's; a reward is beta times the mean log-probability."
        ),
    )
    desirable_weight: float = Field(
        1.0, gt=0, le=100, description="kto: loss weight of chosen completions."
    )
    undesirable_weight: float = Field(
        1.0, gt=0, le=100, description="kto: loss weight of rejected completions."
    )

    @model_validator(mode="after")
    def _check_loss(self) -> PreferenceOptions:
        for name, loss in _LOSS_OF_OPTION.items():
            if self.loss != loss and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'`{name}` is read by loss = "{loss}" only')
        return self

    @property
    def effective_beta(self) -> float:
        """``beta``, or the default of the loss."""
        return DEFAULT_BETA[self.loss] if self.beta is None else self.beta

    @property
    def needs_reference(self) -> bool:
        """True if the loss compares with a reference model."""
        return self.loss in ("dpo", "ipo", "kto")


class RewardOptions(PairOptions):
    """Options of training a reward model."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "centring": "center_rewards_coefficient",
    }

    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate.")
    margin: float = Field(
        0.0,
        ge=0,
        le=100,
        description=(
            "Margin in the loss by which the reward of the chosen completion should exceed "
            "the other."
        ),
    )
    center_rewards_coefficient: float = Field(
        0.01,
        ge=0,
        le=100,
        description=(
            "Weight of a penalty on the squared sum of a pair's rewards, which keeps "
            "rewards near zero."
        ),
    )
