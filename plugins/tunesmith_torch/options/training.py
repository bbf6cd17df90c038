"""Training options that the techniques share. This module does not import torch.

Each run-file table is an options class. A table inside another is a field with its own
class::

    [technique]                TrainingOptions, or SupervisedOptions with one more key
    [technique.chat_template]  ChatTemplateOptions
    [technique.optimizer]      OptimizerOptions
    [technique.schedule]       ScheduleOptions
    [technique.checkpoints]    CheckpointOptions
    [technique.validation]     ValidationOptions, for techniques with a validation loss
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
    "AutoRate",
    "AutoTokenCount",
    "ChatTemplateOptions",
    "CheckpointOptions",
    "OptimizerOptions",
    "ScheduleOptions",
    "SupervisedOptions",
    "TrainingOptions",
    "ValidationOptions",
]

AUTO = 0
"""Internal value that stands for ``auto`` in numeric options; a run file cannot contain it."""
MIN_MICRO_BATCH_TOKENS = 512
"""Smallest ``micro_batch_tokens`` that ``auto`` chooses; fewer would not keep a processor busy."""


def _parse_auto_int(value: object) -> object:
    if value == "auto":
        return AUTO
    if value == AUTO:
        raise ValueError('should be at least 1, or "auto"')
    return value


def _parse_auto_rate(value: object) -> object:
    if value == AUTO:
        raise ValueError('should be greater than 0, or "auto"')
    return float(AUTO) if value == "auto" else value


def _serialize_auto_rate(value: float) -> float | str:
    return value or "auto"


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
"""True, False, or None for ``auto``, which is resolved when the run starts."""
Parallel = Literal["auto", "data", "sharded"]
"""Ways for several processes to train one model together."""
AutoRate = Annotated[
    float,
    Field(ge=0, le=1),
    BeforeValidator(_parse_auto_rate),
    PlainSerializer(_serialize_auto_rate),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
                {"type": "string", "const": "auto"},
            ]
        }
    ),
]
"""A learning rate, or 0 for ``auto``, which pilot runs resolve before the training."""
AutoRowCount = Annotated[int, Field(ge=0, le=65536), *_AUTO_INT, _auto_int_schema(65536)]
AutoTokenCount = Annotated[int, Field(ge=0, le=2**30), *_AUTO_INT, _auto_int_schema(2**30)]
DecayRate = Annotated[float, Field(ge=0, lt=1)]
"""Type of the decay rate of a moving average."""


AUTO_RATE_HELP = (
    'Peak learning rate, reached after warm-up. "auto": the best of three rates in short pilot '
    "runs, on validation rows; with too few of them, the first of the three: 2e-5, or 2e-4 for "
    "adapters."
)
CHECKPOINTING_HELP = (
    "Recompute activations in the backward pass: saves memory, takes more time. "
    '"auto" does this only if a step would not fit in memory otherwise.'
)


TEMPLATE_DATE = datetime.date(2024, 7, 26)
"""The date that chat templates print by default; Llama 3 templates use it if they get no date."""
CHAT_TEMPLATE_NAMES = ("chatml", "llama-3", "gemma", "alpaca", "plain")
"""Names of the templates in :mod:`tunesmith_torch.data.named_templates`."""
_TEMPLATE_VARIABLE = re.compile(r"[A-Za-z][A-Za-z0-9_]*")
_RENDERER_VARIABLES = frozenset({"messages", "tools", "documents", "add_generation_prompt"})


class OptimizerOptions(Options):
    """The ``optimizer`` table: AdamW and gradient clipping."""

    name: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = Field(
        default="adamw",
        description=(
            "AdamW with moments in fp32 (adamw), in 8 bits (adamw-8bit, needs bitsandbytes), or "
            "in 8 bits and paged to host memory when the GPU runs out (paged-adamw-8bit)."
        ),
    )
    weight_decay: float = Field(
        default=0.0, ge=0, lt=1, description="AdamW weight decay, applied only to weight matrices."
    )
    betas: tuple[DecayRate, DecayRate] = Field(
        default=(0.9, 0.999),
        description=(
            "AdamW decay rates for the moving averages of gradients and of squared gradients."
        ),
        strict=False,  # TOML has only arrays, no tuples
    )
    max_grad_norm: float = Field(
        default=1.0,
        gt=0,
        description=(
            "Maximum gradient norm; larger gradients are scaled down to it (gradient clipping)."
        ),
    )


class ScheduleOptions(Options):
    """The ``schedule`` table: the learning rate over the steps."""

    type: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="How the learning rate decays after warm-up."
    )
    warmup_ratio: float = Field(
        default=0.05,
        ge=0,
        lt=1,
        description="Fraction of the steps used for warm-up, while the learning rate rises.",
    )


class CheckpointOptions(Options):
    """The ``checkpoints`` table: how often training saves its state, to resume from it."""

    every: int | None = Field(
        default=None,
        ge=1,
        description="Optimizer steps between checkpoints. Unset: a checkpoint every two minutes.",
    )
    keep: int = Field(
        default=2,
        ge=1,
        le=1000,
        description="How many of the newest checkpoints to keep; the best one is always kept too.",
    )


DEFAULT_BY = "loss"
"""Value of ``by`` that selects the validation loss instead of an evaluator."""


class ValidationOptions(Options):
    """The ``validation`` table: the validation loss during training, and what it decides."""

    every: int | None = Field(
        default=None,
        ge=0,
        description=(
            "Optimizer steps between evaluations of the validation loss. Unset: ten evaluations "
            "per run and one after each epoch, or fewer if they would take more than a tenth of "
            "the training time. 0: never."
        ),
    )
    patience: int | None = Field(
        default=None,
        ge=1,
        description=(
            "Early stopping: stop after this many evaluations in a row without a better "
            "checkpoint. Unset: train to the last step."
        ),
    )
    by: str = Field(
        default=DEFAULT_BY,
        description=(
            'What makes a checkpoint the best: "loss", or the id of an evaluator that measures '
            "answers, such as exact-match. It then answers validation rows at each evaluation: at "
            "most 100, with at most 4,096 tokens in total. Among equal scores, the lowest loss "
            "decides."
        ),
    )
    keep_best: bool = Field(
        default=True,
        description="Save the best checkpoint as the artifact. false: save the last step.",
    )

    @model_validator(mode="after")
    def _check_patience(self) -> ValidationOptions:
        if self.patience is not None and not self.keep_best:
            raise ValueError("`patience` returns to the best checkpoint: set keep_best = true")
        if self.patience is not None and self.every == 0:
            raise ValueError("`patience` needs validation losses: set `every` above 0, or unset it")
        return self


VALIDATION_HELP = "Evaluations of the validation loss, early stopping, best checkpoint."


class ChatTemplateOptions(Options):
    """The ``chat_template`` table: how a conversation becomes text."""

    source: str | None = Field(
        default=None,
        description=(
            "Chat template to use instead of the model's: a file, or one of these names, for base "
            f"models without a template: {', '.join(CHAT_TEMPLATE_NAMES)}."
        ),
        json_schema_extra={"path": True, "names": [*CHAT_TEMPLATE_NAMES]},
    )
    kwargs: dict[str, bool | int | float | str] = Field(
        default={},
        description=(
            "Values for template variables, such as enable_thinking = false. They are saved with "
            "the model as defaults of its template."
        ),
    )
    today: datetime.date = Field(
        default=TEMPLATE_DATE,
        description=(
            "The date that the template prints as today's, in training and evaluation. It is "
            "fixed, which keeps results independent of the day."
        ),
        strict=False,  # a TOML date, or text such as 2024-07-26
    )

    @field_validator("kwargs")
    @classmethod
    def _check_variables(cls, value: dict[str, Any]) -> dict[str, Any]:
        for name in value:
            if not _TEMPLATE_VARIABLE.fullmatch(name) or name in _RENDERER_VARIABLES:
                raise ValueError(f"{name!r} is not a template variable that you can set")
        return value


class TrainingOptions(Options):
    """Options of every training run, whichever weights it changes and whatever its objective."""

    model_config = ConfigDict(populate_by_name=True)

    USES_DROPOUT: ClassVar[bool] = True
    """False if the loss compares with log-probabilities of a reference or of the sampling policy.

    Those are computed without dropout, so updates must not use dropout either.
    """

    STARTS_FROM_BASE: ClassVar[bool] = False
    """True if training cannot start from a fine-tuned model, so `from` is refused."""

    initial_model: str | None = Field(
        default=None,
        alias="from",
        description=(
            "Fine-tuned model to start from, with a new optimizer: a run folder, an adapter "
            "folder or a model folder. Preference and policy training also use it as their "
            "reference. Unset: the base model."
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
    batch_size: AutoRowCount = Field(
        default=16,
        description=(
            "Rows per optimizer step, including gradient accumulation and all processes. "
            '"auto": 16 rows, and the largest micro-batch that fits in memory.'
        ),
    )
    micro_batch_tokens: AutoTokenCount = Field(
        default=4096,
        description=(
            "Maximum number of tokens in one forward and backward pass. A batch is split "
            "into as many micro-batches as needed, so this changes memory use but not "
            'results. A longer row becomes its own micro-batch. "auto": what fits in memory '
            "when the run starts."
        ),
    )
    max_length: int = Field(
        default=2048,
        ge=8,
        le=2**30,
        description=(
            "Maximum number of tokens in a row; the model's context length is a further limit."
        ),
    )
    precision: Literal["auto", "bf16", "fp32"] = Field(
        default="auto",
        description=(
            'Number format of the computation. "auto": bf16 if that is faster for a model of this '
            "size on this processor. A resumed run keeps the choice."
        ),
    )
    packing: bool = Field(
        default=True,
        description=(
            "Concatenate rows instead of padding them; each row attends only to itself. "
            "Faster, with the same results."
        ),
    )
    fused_kernels: bool = Field(
        default=True,
        description=(
            "Use fused kernels for adapters and norms, and weights that are packed for a CPU: "
            "faster, with the same results up to rounding."
        ),
    )
    gradient_checkpointing: AutoBool = Field(default=False, description=CHECKPOINTING_HELP)
    parallel: Parallel = Field(
        default="data",
        description=(
            'How several processes train: with "data" each process holds all weights; with '
            '"sharded" it holds a part of every weight, gradient and optimizer state. "auto" '
            "shards if a whole model per process may not fit in memory. No effect in a single "
            "process."
        ),
    )
    max_skipped: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description=(
            "Maximum share of rows that may be skipped because they are too long or the chat "
            "template refuses them. The run stops if there are more."
        ),
    )
    chat_template: ChatTemplateOptions = Field(
        default_factory=ChatTemplateOptions, description="How conversations become text."
    )
    optimizer: OptimizerOptions = Field(
        default_factory=OptimizerOptions, description="The optimizer and gradient clipping."
    )
    schedule: ScheduleOptions = Field(
        default_factory=ScheduleOptions, description="The learning rate over the steps."
    )
    checkpoints: CheckpointOptions = Field(
        default_factory=CheckpointOptions, description="When training saves checkpoints."
    )

    @field_validator("initial_model")
    @classmethod
    def _check_initial_model(cls, value: str | None) -> str | None:
        if value is not None and cls.STARTS_FROM_BASE:
            raise ValueError(
                "this technique starts from the base model; merge the earlier adapter into its "
                "base model, and set model.base"
            )
        return value

    @model_validator(mode="after")
    def _check_sharding(self) -> Self:
        if self.parallel == "sharded" and not self.can_be_sharded:
            raise ValueError(
                f'parallel = "sharded" would split the blocks of 256 values that share a scale in '
                f'optimizer.name = "{self.optimizer.name}"; use "adamw"'
            )
        return self

    @property
    def can_be_sharded(self) -> bool:
        """True if the optimizer's state can be split over processes row by row."""
        return self.optimizer.name == "adamw"

    @property
    def adaptation(self) -> Adaptation:
        """The weights to train, and how the base model is stored; here all weights."""
        return Adaptation("full")

    @property
    def has_auto(self) -> bool:
        """True if an option is ``auto`` and will be resolved when the run starts."""
        return (
            AUTO in (self.batch_size, self.micro_batch_tokens)
            or self.gradient_checkpointing is None
        )

    def with_smallest_memory(self) -> Self:
        """Return a copy whose ``auto`` memory options have the values that need least memory."""
        changes: dict[str, int] = {}
        if AUTO in (self.batch_size, self.micro_batch_tokens):
            changes["micro_batch_tokens"] = MIN_MICRO_BATCH_TOKENS
        if self.gradient_checkpointing is None:
            changes["gradient_checkpointing"] = True
        return self.model_copy(update=changes)


class SupervisedOptions(TrainingOptions):
    """Options of supervised training, which learns to predict the tokens of the training rows."""

    DEFAULT_RATE: ClassVar[float] = 2e-5
    """The learning rate that pilot runs start from, and that a training without them uses."""

    learning_rate: AutoRate = Field(
        default="auto", validate_default=True, description=AUTO_RATE_HELP
    )
    truncate_prompts: bool = Field(
        default=False,
        description=(
            "Cut the oldest part of a prompt that is too long, instead of skipping the row."
        ),
    )
    validation: ValidationOptions = Field(
        default_factory=ValidationOptions, description=VALIDATION_HELP
    )
