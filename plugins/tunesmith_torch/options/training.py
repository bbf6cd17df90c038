"""Options of training that techniques share; torch is not imported here.

A table of the run file is an options class; a table within it is a field with a class of its own::

    [technique]                TrainingOptions, or SupervisedOptions with one key more
    [technique.chat_template]  ChatTemplateOptions
    [technique.optimizer]      OptimizerOptions
    [technique.schedule]       ScheduleOptions
    [technique.checkpoints]    CheckpointOptions
    [technique.validation]     ValidationOptions, of techniques with a loss on validation rows
    [technique.adapter]        AdapterOptions         } see tunesmith_torch.options.adaptation
    [technique.quantization]   QuantizationOptions    }
"""

from __future__ import annotations

import datetime
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
    field_validator,
    model_validator,
)

from tunesmith.options import Options
from tunesmith_torch.options.adaptation import Adaptation

__all__ = [
    "CHAT_TEMPLATE_NAMES",
    "CHECKPOINTING_HELP",
    "MIN_MICRO_BATCH_TOKENS",
    "AutoBool",
    "AutoTokens",
    "ChatTemplateOptions",
    "CheckpointOptions",
    "OptimizerOptions",
    "ScheduleOptions",
    "SupervisedOptions",
    "TrainingOptions",
    "ValidationOptions",
]

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
Parallel = Literal["auto", "data", "sharded"]
"""The way in which several processes train one model."""
AutoRows = Annotated[int, Field(ge=0, le=65536), *_AUTO_INT, _auto_int_schema(65536)]
AutoTokens = Annotated[int, Field(ge=0, le=2**30), *_AUTO_INT, _auto_int_schema(2**30)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Decay rate of a moving average."""


CHECKPOINTING_HELP = (
    "Recompute activations in the backward pass: less memory, more time. "
    '"auto" does so only if a step would not fit into memory otherwise.'
)


TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The date that chat templates print by default; those of Llama 3 do so without a clock."""
CHAT_TEMPLATE_NAMES = ("chatml", "llama-3", "gemma", "alpaca", "plain")
"""Names of the templates in :mod:`tunesmith_torch.data.named_templates`."""
_TEMPLATE_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RENDERER_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class OptimizerOptions(Options):
    """Table ``optimizer``: AdamW and the clipping of its gradient."""

    name: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = Field(
        default="adamw",
        description=(
            "AdamW with its moments in fp32, in 8 bits (bitsandbytes), or in 8 bits and "
            "moved to host memory when the GPU runs out of memory."
        ),
    )
    weight_decay: float = Field(
        default=0.0, ge=0, lt=1, description="AdamW weight decay; applied to weight matrices only."
    )
    betas: tuple[DecayRate, DecayRate] = Field(
        default=(0.9, 0.999),
        description=(
            "AdamW decay rates of the moving averages of gradients and of squared gradients."
        ),
        strict=False,  # TOML has arrays, not tuples
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        description=(
            "Largest gradient norm; larger gradients are scaled down to it (gradient clipping)."
        ),
    )


class ScheduleOptions(Options):
    """Table ``schedule``: the learning rate over the steps."""

    type: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="Shape of the decrease of the learning rate after warm-up."
    )
    warmup_ratio: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Fraction of the steps in which the learning rate rises.",
    )


class CheckpointOptions(Options):
    """Table ``checkpoints``: when training is saved, so that it can be resumed."""

    every: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between checkpoints. Unset: one checkpoint every two minutes.",
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="Newest checkpoints that are kept; the best one is kept besides.",
    )


class ValidationOptions(Options):
    """Table ``validation``: the loss on validation rows during training, and its effects."""

    every: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Optimizer steps between evaluations of the validation loss. Unset: ten in a run and "
            "one at "
            "the end of each epoch, or fewer, so that they take less than a tenth of the training "
            "time. 0: none."
        ),
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Evaluations in a row without a lower validation loss after which training stops "
            "(early "
            "stopping). Unset: it goes on to the last step."
        ),
    )
    keep_best: bool = Field(
        default=True,
        description=(
            "Save the checkpoint with the lowest validation loss as the artifact. false: the last "
            "step."
        ),
    )

    @model_validator(mode="after")
    def _check_patience(self) -> ValidationOptions:
        if self.patience is not None and not self.keep_best:
            raise ValueError("`patience` needs keep_best = true: it ends with the best checkpoint")
        if self.patience is not None and self.every == 0:
            raise ValueError("`patience` needs evaluations: `every` must not be 0")
        return self


VALIDATION_HELP = "The loss on validation rows during training, and the checkpoint that is kept."


class ChatTemplateOptions(Options):
    """Options of the chat template, which turns a conversation into text."""

    source: str | None = Field(
        default=None,
        description=(
            "Chat template that replaces the one of the model: a file, or a name, for base models "
            f"that have none: {', '.join(CHAT_TEMPLATE_NAMES)}."
        ),
        json_schema_extra={"path": True, "names": [*CHAT_TEMPLATE_NAMES]},
    )
    kwargs: dict[str, bool | int | float | str] = Field(
        default={},
        description=(
            "Values for variables of the template, such as enable_thinking = false; they are "
            "saved with the model, as its template's defaults."
        ),
    )
    today: datetime.date = Field(
        default=TEMPLATE_DATE,
        description=(
            "The date that the template prints as today's, in training and evaluation; always "
            "the same, so that results do not depend on the day."
        ),
        strict=False,  # a date of TOML, or text such as 2024-07-26
    )

    @field_validator("kwargs")
    @classmethod
    def _check_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _TEMPLATE_VARIABLE.fullmatch(name) or name in _RENDERER_VARIABLES:
                raise ValueError(f"{name!r} is no variable of a template that can be set")
        return value


class TrainingOptions(Options):
    """Options that all training shares, whatever is trained and towards whatever objective."""

    model_config = ConfigDict(populate_by_name=True)

    USES_DROPOUT: ClassVar[bool] = True
    """False if the loss compares with log-probabilities of a reference or of sampling.

    Those are computed without dropout, so that updates must have none either.
    """

    initial_model: str | None = Field(
        default=None,
        alias="from",
        description=(
            "Run folder, adapter folder or model folder of a fine-tuned model to begin "
            "with, with a new optimizer; preference and policy training also use it as "
            "their reference. Unset: the base model."
        ),
        json_schema_extra={"path": True},
    )
    learning_rate: float = Field(
        default=2e-5, gt=0, le=1, description="Peak learning rate, reached after warm-up."
    )
    epochs: float = Field(
        default=2.0, gt=0, le=1000, description="Passes over the training data; may be a fraction."
    )
    max_steps: int | None = Field(
        default=None,
        ge=1,
        description="Stop after this many optimizer steps, even if `epochs` would allow more.",
    )
    batch_size: AutoRows = Field(
        default=16,
        description=(
            "Rows per optimizer step, summed over gradient accumulation and all processes; "
            '"auto" uses 16 and the largest micro-batch that fits into memory.'
        ),
    )
    micro_batch_tokens: AutoTokens = Field(
        default=4096,
        description=(
            "Largest number of tokens in one forward and backward pass. A batch is split "
            "into as many micro-batches as needed, so this changes memory use but not "
            'results. A row that is longer becomes its own micro-batch. "auto" uses what '
            "fits into memory when the run begins."
        ),
    )
    max_length: int = Field(
        default=2048,
        ge=8,
        le=2**30,
        description=(
            "Largest number of tokens in a row; the model's context length is a further limit."
        ),
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description="Number format of the computation; auto uses bf16 where that is faster.",
    )
    packing: bool = Field(
        default=True,
        description=(
            "Concatenate rows instead of padding them; each row attends only to itself. "
            "Faster, with the same result."
        ),
    )
    fused_kernels: bool = Field(
        default=True,
        description="Use fused kernels for adapters and norms; faster, with the same result.",
    )
    gradient_checkpointing: AutoBool = Field(default=False, description=CHECKPOINTING_HELP)
    parallel: Parallel = Field(
        default="data",
        description=(
            'How several processes train: "data" keeps all weights in each of them, "sharded" a '
            'part of every weight, its gradient and its optimizer state. "auto" shards if a whole '
            "model in each may not fit into memory. Without effect in a single process."
        ),
    )
    max_skipped: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description=(
            "Share of rows above which the run stops because they are too long, or refused by the "
            "chat template."
        ),
    )
    chat_template: ChatTemplateOptions = Field(
        default_factory=ChatTemplateOptions, description="How conversations become text."
    )
    optimizer: OptimizerOptions = Field(
        default_factory=OptimizerOptions, description="The optimizer, and gradient clipping."
    )
    schedule: ScheduleOptions = Field(
        default_factory=ScheduleOptions, description="The learning rate over the steps."
    )
    checkpoints: CheckpointOptions = Field(
        default_factory=CheckpointOptions, description="When training is saved."
    )

    @model_validator(mode="after")
    def _check_sharding(self) -> Self:
        if self.parallel == "sharded" and not self.can_be_sharded:
            raise ValueError(
                f'parallel = "sharded" would cut the blocks of 256 values that '
                f'optimizer.name = "{self.optimizer.name}" stores with one scale; use "adamw"'
            )
        return self

    @property
    def can_be_sharded(self) -> bool:
        """True if the optimizer's state can be distributed over processes row by row."""
        return self.optimizer.name == "adamw"

    @property
    def adaptation(self) -> Adaptation:
        """The weights that are trained, and how the base model is stored; here all weights."""
        return Adaptation("full")

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


class SupervisedOptions(TrainingOptions):
    """Options of training on the next tokens of demonstrations."""

    truncate_prompts: bool = Field(
        default=False,
        description=(
            "Shorten prompts that are too long, from their oldest part, instead of leaving "
            "the row out."
        ),
    )
    validation: ValidationOptions = Field(
        default_factory=ValidationOptions, description=VALIDATION_HELP
    )
