"""Options for training on pairs of completions. This module does not import torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from tunesmith.options import Options
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.training import VALIDATION_HELP, ValidationOptions

__all__ = ["PairOptions", "PreferenceLossOptions", "PreferenceLossType", "RewardLossOptions"]

PreferenceLossType = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
DEFAULT_BETAS: dict[str, float] = {"dpo": 0.1, "ipo": 0.1, "kto": 0.1, "orpo": 0.1, "simpo": 2.0}

_TYPE_OF_KEY = {
    "label_smoothing": "dpo",
    "margin": "simpo",
    "desirable_weight": "kto",
    "undesirable_weight": "kto",
}


class PreferenceLossOptions(Options):
    """The ``loss`` table of preference optimization: DPO and related losses."""

    type: PreferenceLossType = Field(
        default="dpo",
        description=(
            "The loss. dpo, ipo and kto compare with a reference model. orpo and simpo need no "
            "reference and use the mean log-probability of a completion's tokens. kto also learns "
            "from single labeled answers; the others need pairs."
        ),
    )
    beta: float | None = Field(
        default=None,
        gt=0,
        le=1000,
        description=(
            "Scale of the implicit rewards: larger values keep the policy closer to the "
            "reference. For orpo, the weight of the odds ratio. Unset: 0.1, or 2 for simpo."
        ),
    )
    label_smoothing: float = Field(
        default=0.0,
        ge=0,
        lt=0.5,
        description="dpo: assumed fraction of pairs whose labels are swapped.",
    )
    margin: float = Field(
        default=1.0,
        ge=0,
        le=100,
        description=(
            "simpo: target margin (gamma) between the rewards of the chosen and the rejected "
            "completion. A reward is beta times the mean log-probability per token."
        ),
    )
    desirable_weight: float = Field(
        default=1.0, gt=0, le=100, description="kto: loss weight of desirable (good) completions."
    )
    undesirable_weight: float = Field(
        default=1.0, gt=0, le=100, description="kto: loss weight of undesirable (bad) completions."
    )

    @model_validator(mode="after")
    def _refuse_unused_keys(self) -> PreferenceLossOptions:
        for name, loss in _TYPE_OF_KEY.items():
            if self.type != loss and getattr(self, name) != type(self).model_fields[name].default:
                raise ValueError(f'`{name}` only has an effect with type = "{loss}"')
        return self

    @property
    def effective_beta(self) -> float:
        """``beta``, or the default for this loss if ``beta`` is unset."""
        return DEFAULT_BETAS[self.type] if self.beta is None else self.beta

    @property
    def needs_reference(self) -> bool:
        """True if the loss compares the policy with a reference model."""
        return self.type in ("dpo", "ipo", "kto")


class RewardLossOptions(Options):
    """The ``loss`` table of a reward model: the Bradley-Terry loss."""

    margin: float = Field(
        default=0.0,
        ge=0,
        le=100,
        description=(
            "Target margin between the rewards of the chosen and the rejected completion."
        ),
    )
    center_rewards_coefficient: float = Field(
        default=0.01,
        ge=0,
        le=100,
        description=(
            "Weight of a penalty on the squared sum of a pair's rewards; it keeps rewards near "
            "zero."
        ),
    )


class PairOptions(ChosenAdaptationOptions):
    """Options shared by all training on pairs of completions."""

    epochs: float = Field(
        default=1.0, gt=0, le=1000, description="Passes over the training data; may be a fraction."
    )
    share_prompts: bool = Field(
        default=True,
        description=(
            "Compute a prompt once for both of its completions, if the device and the model "
            "support it. Faster, with the same results. Needs `packing`."
        ),
    )
    validation: ValidationOptions = Field(
        default_factory=ValidationOptions, description=VALIDATION_HELP
    )
