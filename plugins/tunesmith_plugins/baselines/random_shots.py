"""Baseline ``random-shots``: worked examples, drawn at random, in the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.examples import has_examples


class RandomShotsOptions(Options):
    """Options of ``random-shots``."""

    k: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [8],
        min_length=1,
        description=(
            "Numbers of worked examples in the prompt. Where answers are classes, there is at "
            "least one of each, as far as the model's context has room."
        ),
    )
    draws: int = Field(
        3, ge=1, le=20, description="Random choices of examples that are tried for each number."
    )
    describe: bool = Field(
        True, description="Also describe the answers in the prompt, as zero-shot does."
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each choice of examples with constrained answers: where these are classes, "
            "the most probable label; where they are JSON objects, answers of a schema."
        ),
    )


@dataclass(frozen=True)
class RandomShots:
    """The untouched model with the same worked examples before every question."""

    options: RandomShotsOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one for each number of examples and each draw, free and constrained."""
        from tunesmith_evidence.prompting.shots import choose_shots
        from tunesmith_evidence.prompting.task_prompt import read_task

        prompt = read_task(task)
        if not prompt.examples:
            return
        counts = [*dict.fromkeys(max(k, len(prompt.labels)) for k in self.options.k)]

        def prompted(k: int, draw: int) -> TextModel:
            shots = choose_shots(prompt.examples, k, task.seed + draw)
            return prompt.prompted(lambda text: shots, describe=self.options.describe)

        for k in counts:
            for draw in range(self.options.draws):
                name, model = f"k={k}, draw {draw + 1}", prompted(k, draw)
                yield BaselineVariant(name=name, model=model)
                if self.options.constrain:
                    yield from prompt.constrained(model, name)


RANDOM_SHOTS = BaselineOffer(
    name="random-shots",
    summary="the untouched model with the same worked examples in every prompt",
    config=RandomShotsOptions,
    build=RandomShots,
    needs=("numpy>=1.26",),
    solution="prompt",
    cost=120,
    needs_model=True,
    suits=has_examples,
)
