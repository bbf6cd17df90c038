"""The baselines of one user: what a team would serve without the user's own adapter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from tunesmith.contracts import TextModel
from tunesmith_evidence.classify.classifiers import LinearClassifier
from tunesmith_evidence.classify.function_model import FunctionModel
from tunesmith_evidence.classify.text_classifier import TextRows
from tunesmith_evidence.prompting.prompted_model import PromptedModel
from tunesmith_evidence.prompting.shots import Retriever
from tunesmith_evidence.tasks.examples import Example
from tunesmith_torch.generation.text_model import TorchTextModel

REGULARIZATION = 10.0
"""Inverse regularization strength ``C`` of the logistic regression."""


@dataclass(frozen=True)
class UserBaselines:
    """Builds the baselines of any user from the user's training rows."""

    shared: TextModel
    base: TorchTextModel

    def build(self, name: str, examples: Sequence[Example], k: int) -> TextModel:
        """Return a baseline; a user without usable rows gets the shared adapter.

        Args:
            name: the name of the baseline.
            examples: the user's training rows.
            k: the number of retrieved rows in a prompt.
        """
        if name == "shared" or not examples:
            return self.shared
        if name == "classifier":
            return FunctionModel(self._classify_with(examples))
        model = self.shared if name == "shared-retrieval" else self.base
        retriever = Retriever(examples)
        return PromptedModel(model, find=lambda text: retriever.find(text, k))

    def _classify_with(self, examples: Sequence[Example]) -> Callable[[Sequence[str]], Any]:
        """Return a function that classifies texts.

        It learns when it is first called, because a server must run the base model only in the
        thread that answers.
        """

        @cache
        def learn() -> FunctionModel:
            rows = TextRows(examples, self._standardize([e.text for e in examples]))
            return rows.model(LinearClassifier(*rows.learned, REGULARIZATION))

        return lambda texts: learn().answer(texts)

    def _standardize(self, known: Sequence[str]) -> Callable[[Sequence[str]], Any]:
        """Return a function that turns texts into vectors, scaled by those of the known texts.

        A few dimensions of hidden states are much larger than the others.
        """
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        scale = make_pipeline(StandardScaler(), Normalizer()).fit(self._embed(known))
        return lambda texts: scale.transform(self._embed(texts))

    def _embed(self, texts: Sequence[str]) -> Any:
        return np.asarray(self.base.embed(texts), np.float64)
