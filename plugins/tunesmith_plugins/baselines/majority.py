"""Baseline ``majority``: the most frequent answer, always."""

from __future__ import annotations

from collections.abc import Iterator

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_fixed_answers


class MajorityOptions(Options):
    """Options of ``majority``: none."""


class Majority:
    """Gives the most frequent answer to everything: a score that needs no understanding."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the only one."""
        from tunesmith_evidence.classify.function_model import FunctionModel
        from tunesmith_evidence.tasks.examples import read_examples
        from tunesmith_evidence.tasks.kinds import list_labels

        labels = list_labels([example.answer for example in read_examples(task.train, task.seed)])
        if labels:
            model = FunctionModel(lambda texts: labels[:1] * len(texts))
            yield BaselineVariant(name="", model=model)


MAJORITY = BaselineOffer(
    name="majority",
    summary="the most frequent answer of the training rows, always",
    config=MajorityOptions,
    build=lambda options: Majority(),
    solution="constant",
    cost=0,
    suits=has_fixed_answers,
)
