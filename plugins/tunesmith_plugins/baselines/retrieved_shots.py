"""The ``retrieved-shots`` baseline: the most similar training rows in each prompt."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, TextModel
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.examples import has_examples


class RetrievedShotsOptions(Options):
    """Options of ``retrieved-shots``: the numbers of examples to try, and the instructions."""

    k: list[Annotated[int, Field(ge=1, le=64)]] = Field(
        [5, 10, 20],
        min_length=1,
        description=(
            "Numbers of similar training rows to try in a prompt, limited by the model's context. "
            "At most four have the same answer."
        ),
    )
    describe: bool = Field(
        True, description="Describe the answers in the prompt, like `zero-shot`."
    )
    constrain: bool = Field(
        True,
        description=(
            "Also try each number of examples with constrained answers. For classes, take the most "
            "probable label, uncalibrated and calibrated with training prompts. For JSON objects, "
            "constrain decoding to a schema."
        ),
    )


@dataclass(frozen=True)
class RetrievedShots:
    """The base model with the training rows most similar to each question as examples."""

    options: RetrievedShotsOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield variants with free and constrained answers for each number of examples."""
        from tunesmith_evidence.prompting.shots import Retriever, count_fitting_examples
        from tunesmith_evidence.prompting.task_prompt import read_task

        prompt = read_task(task)
        if not prompt.examples:
            return
        encoder = task.encoder() if task.encoder and task.encodes_everywhere else None
        retriever = Retriever(prompt.examples, encoder)
        alone = prompt.prompted(describe=self.options.describe)
        most = count_fitting_examples(alone, prompt.examples, max(self.options.k))
        counts = [*dict.fromkeys(min(k, most) for k in self.options.k)]

        def prompted(k: int) -> TextModel:
            return prompt.prompted(
                lambda text: retriever.find(text, k), describe=self.options.describe
            )

        for k in counts:
            model = prompted(k)
            yield BaselineVariant(name=f"k={k}", model=model)
            if self.options.constrain:
                yield from prompt.constrained(model, f"k={k}")


RETRIEVED_SHOTS = BaselineOffer(
    name="retrieved-shots",
    summary="the base model with the most similar training rows in each prompt",
    config=RetrievedShotsOptions,
    build=RetrievedShots,
    needs=("numpy>=1.26",),
    solution="retrieval",
    cost=130,
    needs_model=True,
    suits=has_examples,
)
