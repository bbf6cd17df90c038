"""Options of the weights that training changes: all of them, or adapters; torch is not imported.

Which weights move and what they move towards are independent: every objective trains by any
:class:`Adaptation`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

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
    """Table ``adapter``: which matrices get a LoRA adapter, and its shape."""

    rank: int = Field(default=16, ge=1, le=1024, description="Rank of each adapter (LoRA's r).")
    alpha: float = Field(
        default=32.0,
        gt=0,
        le=65536,
        description="Scale of the adapter: alpha/rank, or alpha/sqrt(rank) with `use_rslora`.",
    )
    dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description=(
            "Dropout probability on the input of the adapters. Training on preferences, and of a "
            "policy on rewards, has no dropout, so it must be 0 there."
        ),
    )
    target_modules: Literal["all-linear"] | list[str] = Field(
        default="all-linear",
        description=(
            "Modules that get an adapter: all linear layers of the text decoder except the output "
            "head, or a list of names such as q_proj. Experts of a mixture are no modules: see "
            "`target_parameters`."
        ),
    )
    target_parameters: list[str] = Field(
        default=[],
        description=(
            "Parameters outside of linear layers that get an adapter too, such as the stacked "
            "experts of a mixture: experts.gate_up_proj, experts.down_proj."
        ),
    )
    modules_to_save: list[str] = Field(
        default=[],
        description="Modules that are trained fully and saved with the adapter, such as lm_head.",
    )
    use_rslora: bool = Field(
        default=False,
        description="Scale by alpha/sqrt(rank), which keeps high ranks effective (rsLoRA).",
    )
    use_dora: bool = Field(
        default=False,
        description=(
            "Train magnitude and direction of the weights separately (DoRA): closer to full "
            "fine-tuning, slower."
        ),
    )

    @field_validator("target_modules", "target_parameters", "modules_to_save")
    @classmethod
    def _refuse_empty_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return value
        if not all(name.strip(" .") for name in value):
            raise ValueError("has an empty name")
        return value

    @model_validator(mode="after")
    def _check_targets(self) -> AdapterOptions:
        """Refuse no target at all, and a module that is trained fully and gets an adapter too."""
        if not self.target_modules and not self.target_parameters:
            raise ValueError(
                '`target_modules` names no module; write "all-linear", or names such as ["q_proj"]'
            )
        if self.target_parameters and (self.dropout or self.use_dora):
            option = "dropout" if self.dropout else "use_dora"
            raise ValueError(f"`{option}` cannot be used with `target_parameters`")
        twice = [name for name in self.modules_to_save if name in self.target_modules]
        if twice and self.target_modules != "all-linear":
            raise ValueError(
                f"`{twice[0]}` is in `target_modules` and in `modules_to_save`; a module that is "
                "trained fully gets no adapter"
            )
        return self


class QuantizationOptions(Options):
    """Table ``quantization``: how the frozen base model is stored."""

    bits: Literal[4, 8] = Field(
        default=4, description="Bits per weight of the base model: 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        default=True,
        description="Quantize the scales of 4-bit blocks too, which saves 0.4 bits per weight.",
    )


@dataclass(frozen=True)
class Adaptation:
    """The weights that training changes, and how the base model is stored."""

    method: Method
    adapter: AdapterOptions | None = None
    """The adapters that are trained; None: all weights are."""
    quantization: QuantizationOptions | None = None
    """None: the base model is not quantized."""
