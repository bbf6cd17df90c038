"""Offer and rival of ``random-shots``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import Rival, RivalTask, RivalVariant
from tunesmith.offers import RivalOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.examples import has_examples


class RandomShotsOptions(Options):
    """Options of ``random-shots``."""

    k: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [8],
        description=(
            "Numbers of worked examples in the prompt. Where answers are classes, there is at least "
            "one of each, as far as the model's context has room."
        ),
    )
    draws: int = Field(
        3, ge=1, le=20, description="Random choices of examples that are tried for each number."
    )
    describe: bool = Field(
        True, description="Also describe the answers in the prompt, as zero-shot does."
    )
    constrain: bool = Field(
        True, description="Where answers are classes, also try to take the most probable label."
    )


@dataclass(frozen=True)
class RandomShots:
    """The untouched model with the same worked examples before every question."""

    options: RandomShotsOptions

    def variants(self, task: RivalTask) -> Iterator[RivalVariant]:
        """Yield one for each number of examples and each draw, and one constrained to labels."""
        from tunesmith_evidence.prompting.choice_model import constrain_to_labels
        from tunesmith_evidence.prompting.instructions import describe_answers
        from tunesmith_evidence.prompting.prompted_model import PromptedModel, join_texts
        from tunesmith_evidence.prompting.shots import choose_shots
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.kinds import list_labels, task_kind

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        answers = [example.answer for example in examples]
        kind = task_kind(answers)
        labels = len(list_labels(answers)) if kind == "classes" else 0
        text = describe_answers(kind, answers) if self.options.describe else ""
        system = join_texts(task.system_prompt, text)
        first: PromptedModel | None = None
        for k in dict.fromkeys(max(k, labels) for k in self.options.k):
            for draw in range(self.options.draws):
                shots = choose_shots(examples, k, task.seed + draw)
                model = PromptedModel(task.base(), system, lambda text, shots=shots: shots)
                first = first or model
                yield RivalVariant(name=f"k={k}, draw {draw + 1}", model=model)
        if self.options.constrain and first is not None:
            if chosen := constrain_to_labels(first, kind, answers):
                yield RivalVariant(name=f"k={max(self.options.k[0], labels)}, constrained", model=chosen)


def build(options: RandomShotsOptions) -> Rival:
    """Build the rival."""
    return RandomShots(options)


RANDOM_SHOTS = RivalOffer(
    name="random-shots",
    summary="the untouched model with the same worked examples in every prompt",
    config=RandomShotsOptions,
    build=build,
    solution="prompt",
    cost=120,
    needs_model=True,
    suits=has_examples,
)
