"""The ``nearest`` baseline: copy the answer of the most similar training rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_recurring_answers


class NearestOptions(Options):
    """Options of ``nearest``: the numbers of neighbors to choose from, and the centroids."""

    k: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [5, 1, 10, 20],
        min_length=1,
        description=(
            "Numbers of similar training rows that vote on the answer. Cross-validation on the "
            "training rows chooses the most accurate one."
        ),
    )
    centroid: bool = Field(
        True, description="Also try the answer whose rows have the highest mean similarity."
    )


@dataclass(frozen=True)
class Nearest:
    """Copies the answer of the most similar training rows, by TF-IDF cosine similarity."""

    options: NearestOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the variant with the best out-of-fold accuracy.

        Cross-validation on all training rows is more reliable than a few validation rows.
        """
        from tunesmith_evidence.classify.classifiers import NearestCentroid, NearestRowsClassifier
        from tunesmith_evidence.classify.folds import FitClassifier
        from tunesmith_evidence.classify.text_classifier import TextRows
        from tunesmith_evidence.tasks.examples import read_examples

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        ways: dict[str, FitClassifier] = {
            f"k={k}": partial(NearestRowsClassifier, k=k) for k in self.options.k
        }
        if self.options.centroid:
            ways["centroid"] = NearestCentroid
        name, model = TextRows(examples).learn_best(ways)
        yield BaselineVariant(name=name, model=model)


NEAREST = BaselineOffer(
    name="nearest",
    summary="the answer of the most similar training rows, without a model",
    config=NearestOptions,
    build=Nearest,
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    solution="classifier",
    cost=10,
    suits=has_recurring_answers,
)
