"""Options of training on preferences; torch is not imported here, so that plans stay light."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import ConfigDict, Field, model_validator

from tunesmith_torch.options.training import LoraOptions

Loss = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
BETA: dict[str, float] = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}

_ONLY_OF = {
    "label_smoothing": "dpo",
    "margin": "simpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}
_ONLY_ADAPTERS = (
    "rank",
    "alpha",
    "dropout",
    "target_modules",
    "modules_to_save",
    "use_rslora",
    "use_dora",
)
_ONLY_QLORA = ("bits", "double_quantization")


class PolicyOptions(LoraOptions):
    """Which weights of a policy move, and from where."""

    model_config = ConfigDict(populate_by_name=True)

    CUTS: ClassVar[bool] = False
    """Whether prompts may be shortened: answers are compared on the prompt they were given to."""

    adapt: Literal["lora", "qlora", "full"] = Field(
        "lora",
        description="Train low-rank adapters, such adapters over a quantised base, or all weights.",
    )
    start: str | None = Field(
        None,
        alias="from",
        description=(
            "Run folder, adapter folder or model folder of the fine-tuned model to begin with, "
            "which is the reference too. Unset: the base model."
        ),
        json_schema_extra={"path": True},
    )
    bits: Literal[4, 8] = Field(
        4, description="qlora: bits for each weight of the base, 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        True, description="qlora: quantise the scales of 4-bit blocks too."
    )

    @property
    def weights(self) -> Literal["lora", "full"]:
        """What moves, however the base is stored."""
        return "full" if self.adapt == "full" else "lora"

    @model_validator(mode="after")
    def _nothing_unread(self) -> PolicyOptions:
        unread = [*_ONLY_ADAPTERS, *_ONLY_QLORA] if self.adapt == "full" else []
        unread += _ONLY_QLORA if self.adapt == "lora" else []
        kinds = dict.fromkeys(_ONLY_ADAPTERS, 'adapt = "lora" or "qlora"')
        kinds |= dict.fromkeys(_ONLY_QLORA, 'adapt = "qlora"')
        for name in unread:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f"`{name}` is read with {kinds[name]} only")
        if self.truncate_prompts and not self.CUTS:
            raise ValueError("`truncate_prompts` is read by supervised training only")
        return self


class PairOptions(PolicyOptions):
    """What training on pairs of answers needs, whatever is learned from them."""

    epochs: float = Field(
        1.0, gt=0, le=1000, description="Passes over the training part; may be a fraction."
    )
    share_prompts: bool = Field(
        True,
        description=(
            "Compute a prompt once for both of its answers where the machine and the model can; "
            "faster, with the same result. Needs packing."
        ),
    )


class PreferenceOptions(PairOptions):
    """Training on pairs of answers."""

    learning_rate: float = Field(
        2e-5,
        gt=0,
        le=1,
        description="Peak learning rate; about a tenth of what supervised adapters take.",
    )
    loss: Loss = Field(
        "dpo",
        description=(
            "dpo, ipo and kto move away from the reference; orpo and simpo need none and look at "
            "the mean log-probability of an answer's tokens."
        ),
    )
    beta: float | None = Field(
        None,
        gt=0,
        le=1000,
        description=(
            "Scale of the rewards: the larger, the closer to the reference. For orpo the weight "
            "of the odds ratio. Unset: 0.1, for simpo 2."
        ),
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="dpo: share of pairs thought to be the wrong way round."
    )
    margin: float = Field(
        1.0, ge=0, le=100, description="simpo: by how much, times beta, chosen must be ahead."
    )
    desirable_weight: float = Field(
        1.0, gt=0, le=100, description="kto: what a chosen answer counts for."
    )
    undesirable_weight: float = Field(
        1.0, gt=0, le=100, description="kto: what a rejected answer counts for."
    )

    @model_validator(mode="after")
    def _of_this_loss(self) -> PreferenceOptions:
        for name, loss in _ONLY_OF.items():
            if self.loss != loss and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'`{name}` is read by loss = "{loss}" only')
        return self

    @property
    def strength(self) -> float:
        """``beta``, or the loss's usual one."""
        return BETA[self.loss] if self.beta is None else self.beta

    @property
    def needs_reference(self) -> bool:
        return self.loss in ("dpo", "ipo", "kto")


class RewardOptions(PairOptions):
    """Training a reward model."""

    learning_rate: float = Field(1e-4, gt=0, le=1, description="Peak learning rate.")
    margin: float = Field(
        0.0,
        ge=0,
        le=100,
        description="By how much the chosen answer's reward must be ahead before the loss falls.",
    )
    center_rewards_coefficient: float = Field(
        0.01,
        ge=0,
        le=100,
        description="Weight of a pull of a pair's rewards towards zero, which pairs leave open.",
    )
