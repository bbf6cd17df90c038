"""The ``random-shots`` baseline: the base model with random training rows in the prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.examples import has_examples

LIMIT_REACHED = "the limit `tokens` in [baselines.random-shots] was reached"


class RandomShotsOptions(Options):
    """Options of ``random-shots``: the examples and templates to try, and a token limit."""

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
    templates: list[Literal["turns", "labeled", "instruction last"]] = Field(
        ["turns"],
        min_length=1,
        description=(
            "Ways to write the prompt, combined with the draws. `turns`: each question and each "
            "answer is a turn. `labeled`: the same, with `Question:` and `Answer:` in the "
            "question's turn. `instruction last`: the description of the answers follows the last "
            "question instead of the system prompt."
        ),
    )
    tokens: int = Field(
        20_000,
        ge=0,
        description=(
            "Maximum number of prompt tokens for comparing draws and templates on ten rows. "
            "Examples that all rows share count once. One prompt is always tried, and the report "
            "lists the others. Unlike a time limit, this gives the same choice on "
            "every machine."
        ),
    )
    describe: bool = Field(
        True, description="Describe the answers in the prompt, like `zero-shot`."
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each prompt with constrained answers. For classes, take the most probable "
            "label, uncalibrated and calibrated with training prompts. For JSON objects, constrain "
            "decoding to a schema."
        ),
    )


@dataclass(frozen=True)
class RandomShots:
    """The base model with the same worked examples before every question."""

    options: RandomShotsOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants with different prompts, each with free and with constrained answers."""
        from tunesmith_evidence.prompting.prompt_search import count_tokens, write_with_template
        from tunesmith_evidence.prompting.shots import choose_shots
        from tunesmith_evidence.prompting.task_prompt import read_task

        prompt = read_task(task)
        if not prompt.examples:
            return
        spent = 0
        for k, draw, template in self._combine(len(prompt.labels)):
            shots = choose_shots(prompt.examples, k, task.seed + draw)
            model = write_with_template(prompt, shots, template, describe=self.options.describe)
            if model is None:
                continue
            name = f"k={k}, draw {draw + 1}" + (f", {template}" if template != "turns" else "")
            tokens = count_tokens(model, prompt.examples)
            # The first variant is always compared, even if it exceeds the limit on its own.
            if spent and spent + tokens > self.options.tokens:
                yield BaselineVariant(name=name, model=model, omitted=LIMIT_REACHED)
                continue
            spent += tokens
            yield BaselineVariant(name=name, model=model)
            if self.options.constrain:
                yield from prompt.constrained(model, name, shots)

    def _combine(self, labels: int) -> Iterator[tuple[int, int, str]]:
        """Yield all combinations of ``k``, draw and template; the first cover all templates."""
        templates = [*dict.fromkeys(self.options.templates)]
        # At least one example per label: a label without an example would rarely be answered.
        for k in dict.fromkeys(max(k, labels) for k in self.options.k):
            for shift in range(len(templates)):
                for draw in range(self.options.draws):
                    yield k, draw, templates[(draw + shift) % len(templates)]


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
