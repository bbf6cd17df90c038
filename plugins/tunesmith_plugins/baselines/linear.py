"""The ``linear`` baseline: a linear classifier whose features are words and parts of words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_classes


class LinearOptions(Options):
    """Options of ``linear``: the regularization strengths to try."""

    c: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        [10.0, 1.0, 100.0],
        min_length=1,
        description=(
            "Inverse regularization strengths to try, as in scikit-learn. The validation rows pick "
            "the best."
        ),
    )


@dataclass(frozen=True)
class LinearBaseline:
    """Logistic regression over TF-IDF of words and character n-grams."""

    options: LinearOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield a variant for each value of ``C``."""
        from tunesmith_evidence.classify.classifiers import LinearClassifier
        from tunesmith_evidence.classify.text_classifier import TextRows
        from tunesmith_evidence.tasks.examples import read_examples

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        rows = TextRows(examples)
        # One variant per C, because the validation rows then choose it by the metric of the
        # verdict, which may not be accuracy.
        for c in dict.fromkeys(self.options.c):
            yield BaselineVariant(
                name=f"C={c:g}", model=rows.model(LinearClassifier(*rows.learned, c))
            )


LINEAR = BaselineOffer(
    name="linear",
    summary="logistic regression over words and parts of words, without a model",
    config=LinearOptions,
    build=LinearBaseline,
    needs=("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13"),
    solution="classifier",
    cost=20,
    suits=has_classes,
)
