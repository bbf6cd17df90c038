"""Options of ``distill``."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from tunesmith.options import PathOrName
from tunesmith_torch.options.chosen_adaptation import ChosenAdaptationOptions
from tunesmith_torch.options.training import SupervisedOptions


class DistillOptions(SupervisedOptions, ChosenAdaptationOptions):
    """Options of ``distill``: those of supervised training, the student's weights, the teacher."""

    learning_rate: float = Field(
        1e-4, gt=0, le=1, description="Peak learning rate, reached after warm-up."
    )
    adapt: Literal["full", "lora", "qlora"] = Field(
        "full",
        description=(
            "Weights of the student that train: all (full), LoRA adapters (lora), or LoRA adapters "
            "on a quantized student (qlora)."
        ),
    )
    teacher: PathOrName = Field(
        min_length=1,
        description=(
            "The teacher: a run folder, an artifact in a run, or any reference that [model] base "
            "accepts. Its tokenizer must be the student's."
        ),
    )
    weight: float = Field(
        0.5,
        ge=0,
        le=1,
        description=(
            "Weight of the divergence in the loss; the loss on the rows has the rest. 0: the rows "
            "alone, as a comparison."
        ),
    )
    direction: Literal["forward", "reverse"] = Field(
        "forward",
        description=(
            "forward: KL(teacher, student), so the student covers all that the teacher finds "
            "likely; reverse: KL(student, teacher), so it avoids what the teacher finds unlikely."
        ),
    )
    on_policy: float = Field(
        0.0,
        ge=0,
        le=1,
        description=(
            "Share of the loss on answers that the student samples itself and the teacher rates; "
            "the data's rows have the rest. In each step, the student answers this share of a "
            'batch. Usually with direction = "reverse".'
        ),
    )
    on_policy_tokens: int = Field(
        64, ge=1, le=65536, description="Maximum tokens of an answer that the student samples."
    )
    temperature: float = Field(
        1.0,
        gt=0,
        le=100,
        description="Divides both models' logits; above 1, unlikely tokens count more.",
    )
    top_k: int = Field(
        64,
        ge=1,
        le=65536,
        description=(
            "Tokens whose probabilities are compared one by one: the teacher's most likely ones. "
            "All others are compared as one."
        ),
    )
    cache: bool = Field(
        True,
        description=(
            "Ask the teacher once per row before training, and store its predictions in the run. "
            "false: ask it in each step, with the same results, which takes more time and memory."
        ),
    )
