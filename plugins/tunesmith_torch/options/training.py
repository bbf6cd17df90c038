"""Options of the training loop that techniques share; torch is not imported here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, PlainSerializer, WithJsonSchema

from tunesmith.options import Options

AUTO = 0
"""Internal value of ``auto`` for integer options; a run file cannot contain it."""
MIN_MICRO_BATCH_TOKENS = 512
"""Smallest ``micro_batch_tokens`` that ``auto`` chooses; fewer do not keep a processor busy."""


def _parse_auto_int(value: object) -> object:
    if value == "auto":
        return AUTO
    if value == AUTO:
        raise ValueError('should be at least 1, or "auto"')
    return value


def _serialize_auto_int(value: int) -> int | str:
    return value or "auto"


def _auto_int_schema(maximum: int) -> WithJsonSchema:
    number = {"type": "integer", "minimum": 1, "maximum": maximum}
    return WithJsonSchema({"anyOf": [number, {"type": "string", "const": "auto"}]})


_AUTO_INT = BeforeValidator(_parse_auto_int), PlainSerializer(_serialize_auto_int)


def _parse_auto_bool(value: object) -> object:
    if value is None:
        raise ValueError('should be true, false or "auto"')
    return None if value == "auto" else value


def _serialize_auto_bool(value: bool | None) -> bool | str:
    return "auto" if value is None else value


_AUTO_BOOL_SCHEMA = WithJsonSchema(
    {"anyOf": [{"type": "boolean"}, {"type": "string", "const": "auto"}]}
)

AutoBool = Annotated[
    bool | None,
    BeforeValidator(_parse_auto_bool),
    PlainSerializer(_serialize_auto_bool),
    _AUTO_BOOL_SCHEMA,
]
"""True, False, or None for ``auto``: decided when the run begins."""
AutoRows = Annotated[int, Field(ge=0, le=65536), *_AUTO_INT, _auto_int_schema(65536)]
AutoTokens = Annotated[int, Field(ge=0, le=2**30), *_AUTO_INT, _auto_int_schema(2**30)]


_CHECKPOINTING_HELP = (
    "Recompute activations in the backward pass: less memory, more time. "
    '"auto" does so only if a step would not fit into memory otherwise.'
)


class TrainingOptions(Options):
    """Options of the training loop; they do not depend on the adapter or on the objective."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "batch": "batch_size",
        "micro_tokens": "micro_batch_tokens",
        "max_tokens": "max_length",
        "cut_prompts": "truncate_prompts",
        "warmup": "warmup_ratio",
        "clip": "max_grad_norm",
        "lean": "fused_kernels",
        "checkpointing": "gradient_checkpointing",
    }

    learning_rate: float = Field(
        2e-5, gt=0, le=1, description="Peak learning rate, reached after warm-up."
    )
    epochs: float = Field(
        2.0, gt=0, le=1000, description="Passes over the training data; may be a fraction."
    )
    max_steps: int | None = Field(
        None,
        ge=1,
        description="Stop after this many optimizer steps, even if `epochs` would allow more.",
    )
    batch_size: AutoRows = Field(
        16,
        description=(
            "Rows per optimizer step, summed over gradient accumulation and all processes; "
            '"auto" uses 16 and the largest micro-batch that fits into memory.'
        ),
    )
    micro_batch_tokens: AutoTokens = Field(
        4096,
        description=(
            "Largest number of tokens in one forward and backward pass. A batch is split "
            "into as many micro-batches as needed, so this changes memory use but not "
            'results. A row that is longer becomes its own micro-batch. "auto" uses what '
            "fits into memory when the run begins."
        ),
    )
    max_length: int = Field(
        2048,
        ge=8,
        description=(
            "Largest number of tokens in a row; the model's context length is a further limit."
        ),
    )
    truncate_prompts: bool = Field(
        False,
        description=(
            "Shorten prompts that are too long, from their oldest part, instead of leaving "
            "the row out."
        ),
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape of the decrease of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(
        0.05, ge=0, lt=1, description="Fraction of the steps in which the learning rate rises."
    )
    weight_decay: float = Field(
        0.0, ge=0, lt=1, description="AdamW weight decay; applied to weight matrices only."
    )
    betas: tuple[float, float] = Field(
        (0.9, 0.999),
        description=(
            "AdamW decay rates of the moving averages of gradients and of squared gradients."
        ),
        strict=False,  # TOML has arrays, not tuples
    )
    optimizer: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = Field(
        "adamw",
        description=(
            "AdamW with its moments in fp32, in 8 bits (bitsandbytes), or in 8 bits and "
            "moved to host memory when the GPU runs out of memory."
        ),
    )
    max_grad_norm: float = Field(
        1.0,
        gt=0,
        description=(
            "Largest gradient norm; larger gradients are scaled down to it (gradient clipping)."
        ),
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        "auto",
        description="Number format of the computation; auto uses bf16 if the device supports it.",
    )
    packing: bool = Field(
        True,
        description=(
            "Concatenate rows instead of padding them; each row attends only to itself. "
            "Faster, with the same result."
        ),
    )
    fused_kernels: bool = Field(
        True,
        description="Use fused kernels for adapters and norms; faster, with the same result.",
    )
    gradient_checkpointing: AutoBool = Field(False, description=_CHECKPOINTING_HELP)
    save_every: int | None = Field(
        None,
        ge=1,
        description="Optimizer steps between checkpoints. Unset: one checkpoint every two minutes.",
    )
    chat_template: str | None = Field(
        None,
        description="File with a chat template that replaces the one of the model.",
        json_schema_extra={"path": True},
    )

    @property
    def has_auto(self) -> bool:
        """True if an option is ``auto`` and will be resolved when the run begins."""
        return (
            AUTO in (self.batch_size, self.micro_batch_tokens)
            or self.gradient_checkpointing is None
        )

    def with_smallest_memory(self) -> Self:
        """Return a copy with every ``auto`` resolved to its value for the least memory."""
        changes: dict[str, int] = {}
        if AUTO in (self.batch_size, self.micro_batch_tokens):
            changes["micro_batch_tokens"] = MIN_MICRO_BATCH_TOKENS
        if self.gradient_checkpointing is None:
            changes["gradient_checkpointing"] = True
        return self.model_copy(update=changes)


class LoraOptions(TrainingOptions):
    """Options of LoRA: which matrices get an adapter, and its shape."""

    EARLIER: ClassVar[Mapping[str, str]] = {
        "targets": "target_modules",
        "rslora": "use_rslora",
        "dora": "use_dora",
    }

    learning_rate: float = Field(
        2e-4,
        gt=0,
        le=1,
        description=(
            "Peak learning rate; adapters need about ten times the rate of full fine-tuning."
        ),
    )
    rank: int = Field(16, ge=1, le=1024, description="Rank of each adapter (LoRA's r).")
    alpha: float = Field(
        32.0,
        gt=0,
        description="Scale of the adapter: alpha/rank, or alpha/sqrt(rank) with `use_rslora`.",
    )
    dropout: float = Field(
        0.0, ge=0, lt=1, description="Dropout probability on the input of the adapters."
    )
    target_modules: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description=(
            "Modules that get an adapter: all linear layers except the output head, or a "
            "list of names such as q_proj."
        ),
    )
    modules_to_save: list[str] = Field(
        [],
        description="Modules that are trained fully and saved with the adapter, such as lm_head.",
    )
    use_rslora: bool = Field(
        False, description="Scale by alpha/sqrt(rank), which keeps high ranks effective (rsLoRA)."
    )
    use_dora: bool = Field(
        False,
        description=(
            "Train magnitude and direction of the weights separately (DoRA): closer to full "
            "fine-tuning, slower."
        ),
    )


class QloraOptions(LoraOptions):
    """Options of QLoRA: LoRA over a quantized base model."""

    bits: Literal[4, 8] = Field(
        4, description="Bits per weight of the base model: 4 (NF4) or 8 (LLM.int8)."
    )
    double_quantization: bool = Field(
        True,
        description="Quantize the scales of 4-bit blocks too, which saves 0.4 bits per weight.",
    )
    gradient_checkpointing: AutoBool = Field(True, description=_CHECKPOINTING_HELP)
