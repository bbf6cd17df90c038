"""Write the same instructions and examples in different prompt templates, and count the tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tunesmith.execution.baselines import ROUND_ROWS
from tunesmith.records import Message, prompt_text
from tunesmith_evidence.prompting.prompted_model import (
    CHARACTERS_PER_TOKEN,
    QUESTION_TEMPLATE,
    PromptedModel,
    count_prompt_tokens,
)
from tunesmith_evidence.prompting.task_prompt import TaskPrompt
from tunesmith_evidence.tasks.examples import Example

__all__ = ["count_tokens", "write_with_template"]

LABELED = f"Question: {QUESTION_TEMPLATE}\nAnswer:"


def write_with_template(
    prompt: TaskPrompt, shots: Sequence[Example], template: str, *, describe: bool
) -> PromptedModel | None:
    """Return the base model with examples in a template, or None if that changes nothing."""
    if template == "labeled":
        shots = [replace(shot, question=LABELED.format(prompt=shot.question)) for shot in shots]
    model = prompt.prompted(lambda text: shots, describe=describe)
    if template == "labeled":
        return replace(model, template=LABELED)
    if template == "instruction last":
        last = f"{QUESTION_TEMPLATE}\n\n{model.description}"
        return replace(model, template=last, description="") if model.description else None
    return model


def count_tokens(model: PromptedModel, examples: Sequence[Example]) -> int:
    """Count the prompt tokens of ten typical questions, counting their shared prefix once."""
    typical = sorted(examples, key=lambda e: (len(e.question), e))[len(examples) // 2]
    question = (Message("user", typical.question),)
    alone = PromptedModel(model.model, template=model.template)
    return _count(model, question) + (ROUND_ROWS[0] - 1) * _count(alone, question)


def _count(model: PromptedModel, prompt: tuple[Message, ...]) -> int:
    text = prompt_text(model.build_prompt(prompt, 0))
    return (count_prompt_tokens(model, [prompt]) or [len(text) // CHARACTERS_PER_TOKEN])[0]
