"""Offer and rival of ``retrieved-shots``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import Rival, RivalTask, RivalVariant
from tunesmith.offers import RivalOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.examples import has_examples


class RetrievedShotsOptions(Options):
    """Options of ``retrieved-shots``."""

    k: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [5, 10, 20],
        description=(
            "Numbers of similar training rows in a prompt, as far as the model's context has room; "
            "at most four have the same answer."
        ),
    )
    describe: bool = Field(
        True, description="Also describe the answers in the prompt, as zero-shot does."
    )
    constrain: bool = Field(
        True, description="Where answers are classes, also try to take the most probable label."
    )


@dataclass(frozen=True)
class RetrievedShots:
    """The untouched model with the training rows that are the most similar to each question."""

    options: RetrievedShotsOptions

    def variants(self, task: RivalTask) -> Iterator[RivalVariant]:
        """Yield one for each number of examples that fits, and one constrained to labels."""
        from tunesmith_evidence.prompting.choice_model import constrain_to_labels
        from tunesmith_evidence.prompting.instructions import describe_answers
        from tunesmith_evidence.prompting.prompted_model import PromptedModel, join_texts
        from tunesmith_evidence.prompting.shots import Retriever, count_fitting
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.kinds import task_kind

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        answers = [example.answer for example in examples]
        kind = task_kind(answers)
        text = describe_answers(kind, answers) if self.options.describe else ""
        system = join_texts(task.system_prompt, text)
        retriever = Retriever(examples)
        first: PromptedModel | None = None
        most = count_fitting(task.base(), system, examples, max(self.options.k))
        for k in dict.fromkeys(min(k, most) for k in self.options.k):
            model = PromptedModel(task.base(), system, lambda text, k=k: retriever.find(text, k))
            first = first or model
            yield RivalVariant(name=f"k={k}", model=model)
        if self.options.constrain and first is not None:
            if chosen := constrain_to_labels(first, kind, answers):
                yield RivalVariant(name=f"k={min(self.options.k[0], most)}, constrained", model=chosen)


def build(options: RetrievedShotsOptions) -> Rival:
    """Build the rival."""
    return RetrievedShots(options)


RETRIEVED_SHOTS = RivalOffer(
    name="retrieved-shots",
    summary="the untouched model with the most similar training rows in each prompt",
    config=RetrievedShotsOptions,
    build=build,
    solution="prompt",
    cost=130,
    needs_model=True,
    suits=has_examples,
)
