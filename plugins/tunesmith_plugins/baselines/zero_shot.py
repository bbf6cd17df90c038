"""Baseline ``zero-shot``: the untouched model with instructions alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith.plan import Plan
from tunesmith.records import Record

SAMPLE = 200
"""Training rows by which JSON answers are recognized."""


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


ZERO_SHOT = BaselineOffer(
    name="zero-shot",
    summary="the untouched model with instructions alone",
    config=ZeroShotOptions,
    build=ZeroShot,
    solution="prompt",
    cost=100,
    needs_model=True,
    is_reference=True,
    suits=lambda records: True,
)


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield a note if the baseline is used on JSON answers and they cannot be constrained."""
    from tunesmith_evidence.prompting.json_model import HINT, is_installed
    from tunesmith_evidence.tasks.kinds import task_of

    used = plan.baseline_options.use is None or "zero-shot" in plan.baseline_options.use
    if used and not is_installed() and task_of([*islice(train, SAMPLE)]) == "objects":
        yield Finding(
            level="info",
            where="baselines.zero-shot",
            message="JSON answers of the base model are not constrained to a schema: llguidance is "
            "not installed",
            hint=HINT,
        )
