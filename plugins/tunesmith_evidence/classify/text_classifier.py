"""Wrap text classifiers as text models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith_evidence.classify.classifiers import Classifier, Rows, predict_with_lead
from tunesmith_evidence.classify.folds import FitClassifier, assign_folds, choose_out_of_fold
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.classify.vectors import Vectorizer
from tunesmith_evidence.tasks.examples import Example

__all__ = ["TextRows"]


class TextRows:
    """Vectorized examples that classifiers learn answers from."""

    def __init__(self, examples: Sequence[Example]) -> None:
        texts = [example.text for example in examples]
        self._vectorizer = Vectorizer(texts)
        self._folds = assign_folds(texts)
        self.rows: Rows = self._vectorizer.transform(texts)
        self.answers = [example.answer.strip() for example in examples]

    @property
    def learned(self) -> tuple[Rows, Sequence[str]]:
        """The rows and their answers."""
        return self.rows, self.answers

    def learn_best(self, ways: Mapping[str, FitClassifier]) -> tuple[str, FunctionModel]:
        """Train by the method with the best out-of-fold accuracy; return its name and the model."""
        name = choose_out_of_fold(ways, self.rows, self.answers, self._folds)
        return name, self.model(ways[name](self.rows, self.answers))

    def model(self, classifier: Classifier) -> FunctionModel:
        """Return a text model that answers with the labels that a classifier predicts."""

        def answer(texts: Sequence[str]) -> list[tuple[str, float]]:
            return predict_with_lead(classifier, self._vectorizer.transform(texts))

        return FunctionModel(answer)
