"""The ``zero-shot`` baseline: the base model with instructions only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Finding
from tunesmith.install import install_extra
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith.plan import Plan
from tunesmith.records import Record

SAMPLE_ROWS = 200
"""Number of training rows to examine for JSON answers."""


class ZeroShotOptions(Options):
    """Options of ``zero-shot``: whether to describe and to constrain the answers."""

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
            "Also try constrained answers. For classes, take the most probable label, uncalibrated "
            "and calibrated with training prompts. For JSON objects, constrain decoding to a "
            'schema, which needs `pip install "tunesmith[json]"`.'
        ),
    )


@dataclass(frozen=True)
class ZeroShot:
    """The base model with the system prompt, and with a description of the answers."""

    options: ZeroShotOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants with the system prompt only, with a description, and with constraints."""
        from tunesmith_evidence.prompting.task_prompt import read_task

        prompt = read_task(task)
        model = prompt.prompted(describe=False)
        yield BaselineVariant(name="system prompt" if task.system_prompt else "plain", model=model)
        if self.options.describe and prompt.description:
            model = prompt.prompted(describe=True)
            what = {"classes": "labels", "objects": "keys", "text": "length"}[prompt.kind]
            yield BaselineVariant(name=f"with {what}", model=model)
        # Constraints use the last prompt, which describes the answers if possible. A model that was
        # told the labels or keys rates them more sensibly.
        if self.options.constrain:
            yield from prompt.constrained(model, "")


ZERO_SHOT = BaselineOffer(
    name="zero-shot",
    summary="the base model with instructions only",
    config=ZeroShotOptions,
    build=ZeroShot,
    solution="prompt",
    cost=100,
    needs_model=True,
    is_reference=True,
    suits=lambda records: True,
)


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield a note if answers are JSON objects but llguidance, which constrains them, is absent."""
    from tunesmith_evidence.prompting.json_model import is_json_library_installed
    from tunesmith_evidence.tasks.kinds import detect_record_task

    used = plan.baseline_options.use is None or "zero-shot" in plan.baseline_options.use
    if (
        used
        and not is_json_library_installed()
        and detect_record_task([*islice(train, SAMPLE_ROWS)]) == "objects"
    ):
        yield Finding(
            level="info",
            where="baselines.zero-shot",
            message="cannot constrain the base model's JSON answers to a schema: llguidance is not "
            "installed",
            hint=install_extra("json"),
        )
