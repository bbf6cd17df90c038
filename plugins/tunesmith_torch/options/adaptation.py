"""Options for the choice of weights to train: all of them, or adapters.

The choice is independent of the objective: every objective works with every :class:`Adaptation`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from tunesmith.options import Options

__all__ = [
    "Adaptation",
    "AdapterOptions",
    "QuantizationOptions",
]

Method = Literal["full", "lora", "qlora"]
"""Train all weights, LoRA adapters, or LoRA adapters over a quantized base model."""


class AdapterOptions(Options):
    """The ``adapter`` table: which modules get a LoRA adapter, and the adapter's rank and scale."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of each adapter (LoRA's r).")
    alpha: float = Field(
        default=32.0,
        gt=0,
        le=65536,
        description=(
            "Adapters are scaled by alpha/rank, or by alpha/sqrt(rank) with `use_rslora`."
        ),
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Dropout probability on the adapters' input. It must be 0 for preference training and "
            "policy training, which use no dropout."
        ),
    )
    target_modules: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        description=(
            "Modules that get an adapter: all linear layers of the text decoder except the output "
            "head, or a list of names such as q_proj. Mixture-of-experts layers may store their "
            "experts as parameters, not modules: see `target_parameters`."
        ),
    )
    target_parameters: list[str] = Field(
        default=[],
        description=(
            "Parameters outside linear layers that also get an adapter, such as the stacked "
            "experts of a mixture-of-experts model: experts.gate_up_proj, experts.down_proj."
        ),
    )
    modules_to_save: list[str] = Field(
        default=[],
        description=(
            "Modules whose weights are all trained and saved with the adapter, such as lm_head."
        ),
    )
    use_rslora: bool = Field(
        default=False,
        description="Scale by alpha/sqrt(rank), which keeps high ranks effective (rsLoRA).",
    )
    use_dora: bool = Field(
        default=False,
        description=(
            "Train the magnitude and direction of the weights separately (DoRA): slower, but "
            "closer to full fine-tuning."
        ),
    )

    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora"] = Field(
        default="default",
        description=(
            "Initial adapters. default: A random and B zero; gaussian: the same with normal random "
            "numbers; orthogonal: orthogonal A and B; pissa: the largest singular vectors of the "
            "weights; olora: their QR decomposition. The last two change the base model in memory, "
            "so the artifact has twice the rank."
        ),
    )
    b_rate_ratio: float = Field(
        default=1.0,
        ge=1,
        le=1000,
        description=(
            "LoRA+: how much faster the matrices B learn than the matrices A; 16 is common, with "
            "a lower `learning_rate`."
        ),
    )
    rank_pattern: dict[str, Annotated[int, Field(ge=1, le=1024)]] = Field(
        default={},
        description=(
            "Other ranks by regular expression for the end of a module's name, such as q_proj or "
            "layers.0.mlp.down_proj. The first one that matches counts."
        ),
    )
    alpha_pattern: dict[str, Annotated[float, Field(gt=0, le=65536)]] = Field(
        default={}, description="Other values of alpha, by the same kind of regular expression."
    )
    layers: list[Annotated[int, Field(ge=0)]] = Field(
        default=[], description="Numbers of the layers that get adapters, from 0. Empty: all."
    )
    trainable_tokens: list[Annotated[int, Field(ge=0)]] = Field(
        default=[],
        description=(
            "Ids of tokens whose embeddings are also trained, such as those of new special tokens."
        ),
    )

    @property
    def changes_base(self) -> bool:
        """True if the initialization changes the base weights in memory."""
        return self.init in ("pissa", "olora")

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's adapter, by the module's name."""
        matches = (r for key, r in self.rank_pattern.items() if matches_pattern(key, module))
        return next(matches, self.rank)

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _check_patterns(cls, value: dict[str, Any]) -> dict[str, Any]:
        for pattern in value:
            try:
                re.compile(pattern)
            except re.error as error:
                raise ValueError(f'"{pattern}" is not a regular expression: {error}') from None
        return value

    @field_validator("target_modules", "target_parameters", "modules_to_save")
    @classmethod
    def _refuse_empty_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if not all(name.strip(" .") for name in value):
            raise ValueError("contains an empty name; remove it")
        return value

    @model_validator(mode="after")
    def _check_targets(self) -> AdapterOptions:
        """Raise an error if nothing gets an adapter, or if a target is also trained fully."""
        if not self.target_modules and not self.target_parameters:
            raise ValueError(
                '`target_modules` is empty; write "all-linear", or names such as ["q_proj"]'
            )
        if self.target_parameters and (self.dropout or self.use_dora):
            option = "dropout" if self.dropout else "use_dora"
            raise ValueError(f"`{option}` cannot be used with `target_parameters`")
        self._check_init()
        twice = [name for name in self.modules_to_save if name in self.target_modules]
        if twice and self.target_modules != "all-linear":
            raise ValueError(
                f"`{twice[0]}` is in `target_modules` and in `modules_to_save`; a module gets an "
                "adapter or is trained fully, so remove it from one of them"
            )
        return self

    def _check_init(self) -> None:
        """Raise an error if the initialization cannot be combined with another option."""
        names = {"default": (), "gaussian": ("target_parameters",)}.get(
            self.init, ("target_parameters", "use_dora", "trainable_tokens")
        )
        if self.changes_base:  # the artifact is the difference from a plain initial adapter
            names += ("rank_pattern", "alpha_pattern", "modules_to_save")
        for name in names:
            if getattr(self, name):
                raise ValueError(f'`{name}` cannot be used with init = "{self.init}"')
        if self.init == "orthogonal" and any(
            r % 2 for r in (self.rank, *self.rank_pattern.values())
        ):
            raise ValueError('init = "orthogonal" needs an even `rank`')
        if self.trainable_tokens and {"embed_tokens", "lm_head"} & {*self.modules_to_save}:
            raise ValueError("`trainable_tokens` are trained with `modules_to_save`; remove them")
        if self.layers and self.target_parameters:
            raise ValueError("`layers` cannot be used with `target_parameters`")


def matches_pattern(pattern: str, module: str) -> bool:
    """Return True if a pattern of PEFT matches the end of a module's name."""
    return bool(re.match(rf"(.*\.)?({pattern})$", module))


class QuantizationOptions(Options):
    """The ``quantization`` table: how the frozen base model is stored."""

    bits: Literal[4, 8] = Field(
        default=4, description="Bits per weight of the base model: 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        default=True,
        description="Also quantize the scales of 4-bit blocks, which saves 0.4 bits per weight.",
    )


@dataclass(frozen=True)
class Adaptation:
    """The weights that training changes, and how the base model is stored."""

    method: Method
    adapter: AdapterOptions | None = None
    """The options of the adapter to train; None if all weights are trained."""
    quantization: QuantizationOptions | None = None
    """Quantization of the base model; None if it is not quantized."""
    build: Callable[[Any, Any], Any] | None = None
    """Takes a loaded base model and a precision, and adds an adapter of another kind. Memory
    estimates then trace this adapter, and ``adapter`` is a LoRA adapter of about its size."""
