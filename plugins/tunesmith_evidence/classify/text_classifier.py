"""Wrap text classifiers as text models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.encoders import Vectors
from tunesmith_evidence.classify.classifiers import Classifier, Rows, predict_with_lead
from tunesmith_evidence.classify.folds import FitClassifier, assign_folds, choose_out_of_fold
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.classify.vectors import Vectorizer
from tunesmith_evidence.tasks.examples import Example
from tunesmith_evidence.tasks.kinds import unify_spellings

__all__ = ["TextRows", "vectorize_with"]


class TextRows:
    """Vectorized training examples for classifiers.

    ``vectorize`` turns texts into rows; the default is TF-IDF over the terms of the examples.
    """

    def __init__(
        self,
        examples: Sequence[Example],
        vectorize: Callable[[Sequence[str]], Rows] | None = None,
    ) -> None:
        texts = [example.text for example in examples]
        self._vectorize = vectorize or Vectorizer(texts).transform
        self._folds = assign_folds(texts)
        self.rows: Rows = self._vectorize(texts)
        self.answers = unify_spellings([example.answer for example in examples])

    @property
    def learned(self) -> tuple[Rows, Sequence[str]]:
        """Vectors and answers of all training rows, to fit a classifier on."""
        return self.rows, self.answers

    def learn_best(
        self, ways: Mapping[str, FitClassifier], margin: float = 0.0
    ) -> tuple[str, FunctionModel]:
        """Choose a method by out-of-fold accuracy, train with it; return its name and the model.

        For ``margin``, see :func:`~tunesmith_evidence.classify.folds.choose_out_of_fold`.
        """
        name = choose_out_of_fold(ways, self.rows, self.answers, self._folds, margin)
        return name, self.model(ways[name](self.rows, self.answers))

    def model(self, classifier: Classifier) -> FunctionModel:
        """Return a text model that answers with the labels predicted by a classifier."""

        def answer(texts: Sequence[str]) -> list[tuple[str, float]]:
            return predict_with_lead(classifier, self._vectorize(texts))

        return FunctionModel(answer)


def vectorize_with(
    encode: Callable[[Sequence[str]], Vectors],
) -> Callable[[Sequence[str]], NDArray[np.float64]]:
    """Return a function that turns texts into an array of an encoder's vectors."""
    return lambda texts: np.asarray(encode(texts), dtype=np.float64)
