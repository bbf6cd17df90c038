"""Baseline ``random-shots``: the base model with randomly drawn worked examples in the prompt."""

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
            "Numbers of worked examples to try in the prompt. For classes, each class gets at "
            "least one example, as far as the model's context allows."
        ),
    )
    draws: int = Field(
        3, ge=1, le=20, description="Number of random draws to try for each number of examples."
    )
    describe: bool = Field(
        True, description="Describe the answers in the prompt, like `zero-shot`."
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each draw of examples with constrained answers: the most probable label for "
            "classes, or answers that follow a schema for JSON objects."
        ),
    )


@dataclass(frozen=True)
class RandomShots:
    """The base model with the same worked examples before every question."""

    options: RandomShotsOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants per number of examples and draw, with free and constrained answers."""
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
    summary="the base model with the same worked examples in every prompt",
    config=RandomShotsOptions,
    build=RandomShots,
    needs=("numpy>=1.26",),
    solution="prompt",
    cost=120,
    needs_model=True,
    suits=has_examples,
)
