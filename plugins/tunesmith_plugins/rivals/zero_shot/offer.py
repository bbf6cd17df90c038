"""Offer and rival of ``zero-shot``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Rival, RivalTask, RivalVariant
from tunesmith.offers import RivalOffer
from tunesmith.options import Options


class ZeroShotOptions(Options):
    """Options of ``zero-shot``."""

    describe: bool = Field(
        True,
        description=(
            "Also try a prompt that describes the answers: the list of labels, the keys of JSON "
            "objects, or the length."
        ),
    )
    constrain: bool = Field(
        True, description="Where answers are classes, also try to take the most probable label."
    )


@dataclass(frozen=True)
class ZeroShot:
    """The untouched model, with the system prompt and with a description of the answers."""

    options: ZeroShotOptions

    def variants(self, task: RivalTask) -> Iterator[RivalVariant]:
        """Yield the system prompt alone, with a description, and constrained to the labels."""
        from tunesmith_evidence.prompting.choice_model import constrain_to_labels
        from tunesmith_evidence.prompting.instructions import describe_answers
        from tunesmith_evidence.prompting.prompted_model import PromptedModel, join_texts
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.kinds import task_kind

        answers = [example.answer for example in read_examples(task.train, task.seed)]
        kind = task_kind(answers)
        plain = PromptedModel(task.base(), task.system_prompt)
        yield RivalVariant(name="system prompt" if task.system_prompt else "plain", model=plain)
        described = plain
        if self.options.describe and (text := describe_answers(kind, answers)):
            described = PromptedModel(task.base(), join_texts(task.system_prompt, text))
            what = {"classes": "labels", "objects": "keys", "text": "length"}[kind]
            yield RivalVariant(name=f"with {what}", model=described)
        if self.options.constrain and (chosen := constrain_to_labels(described, kind, answers)):
            yield RivalVariant(name="constrained", model=chosen)


def build(options: ZeroShotOptions) -> Rival:
    """Build the rival."""
    return ZeroShot(options)


ZERO_SHOT = RivalOffer(
    name="zero-shot",
    summary="the untouched model with instructions alone",
    config=ZeroShotOptions,
    build=build,
    solution="prompt",
    cost=100,
    needs_model=True,
    suits=lambda records: True,
)
