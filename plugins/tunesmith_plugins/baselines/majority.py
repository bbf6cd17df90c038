"""The ``majority`` baseline: always predict the most frequent answer (majority class)."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_fixed_answers


class MajorityOptions(Options):
    """``majority`` has no options."""


class Majority:
    """Always gives the most frequent answer, like the best model that ignores the prompt."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the only variant, or nothing if there are no training answers."""
        from tunesmith_evidence.classify.function_model import FunctionModel
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.kinds import list_labels

        labels = list_labels([example.answer for example in read_examples(task.train, task.seed)])
        if labels:
            model = FunctionModel(lambda texts: labels[:1] * len(texts))
            yield BaselineVariant(name="", model=model)


MAJORITY = BaselineOffer(
    name="majority",
    summary="always the most frequent answer of the training rows",
    config=MajorityOptions,
    build=lambda options: Majority(),
    solution="constant",
    cost=0,
    suits=has_fixed_answers,
)
