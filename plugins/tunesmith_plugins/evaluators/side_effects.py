"""The ``general-skills`` and ``general-loss`` evaluators: measure side effects outside the task.

Both evaluators measure the base model and the tuned model. The verdict compares the two models,
prompt by prompt.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field

from tunesmith.contracts import Measurement, RunContext, TextModel
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.prepared import RowWise
from tunesmith.records import Record, Text, last_exchange
from tunesmith_evidence.number_text import format_share
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.side_effects.general_prompts import (
    read_general_prompts,
    read_general_texts,
    score_answers,
)
from tunesmith_evidence.side_effects.task_format import TaskFormat
from tunesmith_evidence.side_effects.text_losses import measure_losses

SKILLS = Metric(name="general-skills", higher_is_better=True, bounds=(0, 1))
TASK_ANSWERS = Metric(name="task-answers", higher_is_better=False, bounds=(0, 1))
LOSS = Metric(name="general-loss", higher_is_better=False, unit="nats/token")


class GeneralSkillsOptions(Options):
    """Options of ``general-skills``: the maximum answer length."""

    max_new_tokens: int = Field(24, ge=1, le=512, description="Maximum tokens per answer.")


class GeneralSkills(RowWise):
    """Asks general prompts, and checks the answers by rules.

    ``general-skills`` is the share of right answers. ``task-answers`` is the share of answers that
    are wrong and have the format of the training answers, such as a label: a model that answers
    every question that way has collapsed to its task.
    """

    def __init__(self, options: GeneralSkillsOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return one value per general prompt. ``records`` show the format of task answers."""
        prompts = read_general_prompts()
        rows = [prompt.to_record(number) for number, prompt in enumerate(prompts, 1)]
        # A model without a chat template gets the prompt as plain text.
        generated = PromptedModel(model).generate(
            [last_exchange(row)[0] for row in rows], self.options.max_new_tokens
        )
        answers = tuple(answer.text for answer in generated)
        right, task = score_answers(prompts, answers), TaskFormat.of(records)
        alike = tuple(
            float(not is_right and task.matches(answer))
            for answer, is_right in zip(answers, right, strict=True)
        )
        share = format_share(sum(alike) / len(alike))
        text = f"{share} of the answers to general prompts are just {task.description}"
        details = {"text": text} if any(alike) else {}
        return [
            Measurement(metric=SKILLS.name, values=right, outputs=answers, records=rows),
            Measurement(metric=TASK_ANSWERS.name, values=alike, details=details, records=rows),
        ]

    def compare(
        self, model: TextModel, records: Sequence[Record], run: RunContext
    ) -> Sequence[Measurement]:
        """Measure as :meth:`measure` does, with the task format of the run's training rows."""
        return self.measure(model, run.train)


class GeneralLossOptions(Options):
    """``general-loss`` has no options."""


class GeneralLoss(RowWise):
    """Measures the loss on general texts in four languages, in nats per token."""

    def __init__(self, options: GeneralLossOptions) -> None:
        self.options = options

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return the loss of each text, weighted by its number of tokens."""
        texts = read_general_texts()
        losses, weights = measure_losses(model, texts)
        return [Measurement(metric=LOSS.name, values=losses, weights=weights, records=texts)]


def can_be_asked(records: Sequence[Record]) -> bool:
    """Return True unless the task is to continue plain texts, which have no prompts."""
    return not all(isinstance(record, Text) for record in records)


GENERAL_SKILLS = EvaluatorOffer(
    name="general-skills",
    summary="share of right answers to general prompts, before and after training",
    config=GeneralSkillsOptions,
    build=GeneralSkills,
    metrics=(SKILLS, TASK_ANSWERS),
    default_for=can_be_asked,
    generates=True,
    is_side_effect=True,
)
GENERAL_LOSS = EvaluatorOffer(
    name="general-loss",
    summary="loss on general texts, before and after training, in nats per token",
    config=GeneralLossOptions,
    build=GeneralLoss,
    metrics=(LOSS,),
    default_for=lambda records: True,
    is_side_effect=True,
)
