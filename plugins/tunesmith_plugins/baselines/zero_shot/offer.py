"""Offer and baseline of ``zero-shot``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import Field

from tunesmith.contracts import Baseline, BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
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
        True,
        description=(
            "Where answers are classes, also try to take the most probable label, as it is and "
            "calibrated by training prompts; where they are JSON objects, also constrain them to a "
            'schema, which needs `pip install "tunesmith[json]"`.'
        ),
    )


@dataclass(frozen=True)
class ZeroShot:
    """The untouched model, with the system prompt and with a description of the answers."""

    options: ZeroShotOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the system prompt alone, with a description, and constrained."""
        from tunesmith_evidence.prompting.task_prompt import read_task

        prompt = read_task(task)
        model = prompt.prompted(describe=False)
        yield BaselineVariant(name="system prompt" if task.system_prompt else "plain", model=model)
        if self.options.describe and prompt.description:
            model = prompt.prompted(describe=True)
            what = {"classes": "labels", "objects": "keys", "text": "length"}[prompt.kind]
            yield BaselineVariant(name=f"with {what}", model=model)
        if self.options.constrain:
            yield from prompt.constrained(model, "", calibrate=True)


def build(options: ZeroShotOptions) -> Baseline:
    """Build the baseline."""
    return ZeroShot(options)


ZERO_SHOT = BaselineOffer(
    name="zero-shot",
    summary="the untouched model with instructions alone",
    config=ZeroShotOptions,
    build=build,
    solution="prompt",
    cost=100,
    needs_model=True,
    is_reference=True,
    suits=lambda records: True,
)
