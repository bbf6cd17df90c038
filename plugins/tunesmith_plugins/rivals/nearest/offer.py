"""Offer and rival of ``nearest``."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import Rival, RivalTask, RivalVariant
from tunesmith.offers import RivalOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_fixed_answers


class NearestOptions(Options):
    """Options of ``nearest``."""

    k: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [5, 1, 10, 20],
        description="Numbers of similar training rows that vote; the best on the dev rows is used.",
    )
    centroid: bool = Field(
        True, description="Also try the answer whose rows are the most similar on average."
    )


@dataclass(frozen=True)
class Nearest:
    """Answers like the most similar training rows, by the cosine of TF-IDF."""

    options: NearestOptions

    def variants(self, task: RivalTask) -> Iterator[RivalVariant]:
        """Yield one for each k, and the centroids."""
        from tunesmith_evidence.classify.classifiers import NearestCentroid, NearestRows
        from tunesmith_evidence.classify.text_classifier import TextRows
        from tunesmith_evidence.tasks.examples import read_examples

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        rows = TextRows(examples)
        for k in dict.fromkeys(self.options.k):
            yield RivalVariant(name=f"k={k}", model=rows.model(NearestRows(*rows.learned, k)))
        if self.options.centroid:
            yield RivalVariant(name="centroid", model=rows.model(NearestCentroid(*rows.learned)))


def build(options: NearestOptions) -> Rival:
    """Build the rival."""
    return Nearest(options)


NEAREST = RivalOffer(
    name="nearest",
    summary="the answer of the most similar training rows, without a model",
    config=NearestOptions,
    build=build,
    solution="classifier",
    cost=10,
    suits=has_fixed_answers,
)
