"""Options that techniques share; torch is not imported here, so that plans stay light."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from tunesmith.options import Options

AUTO = 0
"""What ``auto`` is inside: a number that no run file can mean."""
LEAST_TOKENS = 512
"""Tokens at once below which ``auto`` never goes: fewer keep no processor busy."""


def _number(value: object) -> object:
    if value == "auto":
        return AUTO
    if value == AUTO:
        raise ValueError('should be at least 1, or "auto"')
    return value


def _word(value: int) -> int | str:
    return value or "auto"


def _schema(most: int) -> WithJsonSchema:
    number = {"type": "integer", "minimum": 1, "maximum": most}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "const": "auto"}]})


_AS_WRITTEN = BeforeValidator(_number), PlainSerializer(_word)


def _switch(value: object) -> object:
    if value is None:
        raise ValueError('should be true, false or "auto"')
    return None if value == "auto" else value


def _switch_word(value: bool | None) -> bool | str:
    return "auto" if value is None else value


_AUTO_SWITCH = WithJsonSchema({"anyOf": [{"type": "boolean"}, {"type": "string", "const": "auto"}]})

Switch = Annotated[
    bool | None, BeforeValidator(_switch), PlainSerializer(_switch_word), _AUTO_SWITCH
]
"""On, off, or None: as a run finds it best when it begins (``auto``)."""
Rows = Annotated[int, Field(ge=0, le=65536), *_AS_WRITTEN, _schema(65536)]
Tokens = Annotated[int, Field(ge=0, le=2**30), *_AS_WRITTEN, _schema(2**30)]


_CHECKPOINTING = (
    "Recompute activations in the backward pass: less memory, more time. "
    '"auto" does so if a step would not fit into memory otherwise.'
)


class FitOptions(Options):
    """How the training loop goes about its work, whatever weights move and towards what."""

    learning_rate: float = Field(2e-5, gt=0, le=1, description="Peak learning rate, after warm-up.")
    epochs: float = Field(
        2.0, gt=0, le=1000, description="Passes over the training part; may be a fraction."
    )
    max_steps: int | None = Field(
        None, ge=1, description="Stop after so many optimizer steps, whatever epochs says."
    )
    batch_size: Rows = Field(
        16,
        description=(
            'Rows per optimizer step, over all accumulation; "auto" takes 16, and as many tokens '
            "at once as fit into memory when the run begins."
        ),
    )
    micro_batch_tokens: Tokens = Field(
        4096,
        description=(
            "Tokens computed at once. A batch is split into as many micro-batches as this needs; "
            "results do not depend on it, memory does. A longer row is a micro-batch of its own. "
            '"auto" takes what fits into memory when the run begins.'
        ),
    )
    max_length: int = Field(
        2048, ge=8, description="Longest row, in tokens; the model's context limits it further."
    )
    truncate_prompts: bool = Field(
        False,
        description=(
            "Shorten the oldest part of prompts that are too long, instead of leaving the row out."
        ),
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="How the learning rate falls after warm-up."
    )
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Share of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(
        0.0, ge=0, lt=1, description="AdamW's decay, on weight matrices only."
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.999),
        description="AdamW's averaging of gradients and of their squares.",
        strict=False,  # an array of TOML, also where a validator saw the table before
    )
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = Field(
        "adamw",
        description=(
            "AdamW with its means in fp32, or in 8 bits (bitsandbytes), or in 8 bits and moved to "
            "the host when the GPU's memory runs out."
        ),
    )
    max_grad_norm: float = Field(
        1.0, gt=0, description="Largest norm of the gradient; a larger one is scaled down."
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="Number format of the arithmetic; auto takes bf16 where the machine has it.",
    )
    packing: bool = Field(
        True,
        description=(
            "Lay rows end to end, each attending to itself alone, instead of padding them; "
            "faster, with the same result."
        ),
    )
    fused_kernels: bool = Field(
        True,
        description=(
            "Compute adapters and norms in fewer products and passes than the libraries do; "
            "faster, with the same result."
        ),
    )
    gradient_checkpointing: Switch = Field(False, description=_CHECKPOINTING)
    save_every: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints. Unset: one every two minutes.",
    )
    chat_template: str | None = Field(
        None,
        description="File with a chat template that replaces the model's own.",
        json_schema_extra={"path": True},
    )

    @property
    def has_auto(self) -> bool:
        """Whether something is left to what fits into memory when the run begins."""
        return (
            AUTO in (self.batch_size, self.micro_batch_tokens)
            or self.gradient_checkpointing is None
        )

    def frugal(self) -> Self:
        """The same with what ``auto`` comes to where memory is short."""
        changes: dict[str, int] = {}
        if AUTO in (self.batch_size, self.micro_batch_tokens):
            changes["micro_batch_tokens"] = LEAST_TOKENS
        if self.gradient_checkpointing is None:
            changes["gradient_checkpointing"] = True
        return self.model_copy(update=changes)


class LoraOptions(FitOptions):
    """Low-rank adapters: which matrices get one, and of what shape."""

    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description="Peak learning rate; adapters want about ten times that of full fine-tuning.",
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of the update of each matrix.")
    alpha: float = Field(
        32.0, gt=0, description="Scale of the update: alpha/rank, or alpha/sqrt(rank) with rslora."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="Dropout on the adapters' input.")
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description=(
            "Modules that get an adapter: all linear layers but the head, or names such as q_proj."
        ),
    )
    modules_to_save: list[str] = Field(
        [],
        description="Modules that are trained whole and stored with the adapter, such as lm_head.",
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha/sqrt(rank): keeps high ranks effective (rsLoRA)."
    )
    use_dora: bool = Field(
        False, description="Train magnitude and direction apart (DoRA): closer to full, slower."
    )


class QloraOptions(LoraOptions):
    """Low-rank adapters over a quantised base: how it is stored."""

    bits: Literal[4, 8] = Field(
        4, description="Bits for each weight of the base: 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        True, description="Quantise the scales of 4-bit blocks too: 0.4 bits a weight less."
    )
    gradient_checkpointing: Switch = Field(True, description=_CHECKPOINTING)
