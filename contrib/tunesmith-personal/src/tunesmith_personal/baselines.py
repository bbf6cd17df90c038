"""The baselines of one user: what a team would serve without the user's own adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tunesmith.contracts import BaselineTask, TextModel
from tunesmith.records import Record
from tunesmith_evidence.classify.classifiers import LinearClassifier
from tunesmith_evidence.classify.text_classifier import TextRows
from tunesmith_evidence.prompting.shots import Retriever
from tunesmith_evidence.prompting.task_prompt import read_task
from tunesmith_evidence.tasks.examples import read_examples
from tunesmith_personal.options import Baseline
from tunesmith_torch.generation.text_model import TorchTextModel

REGULARIZATION = 10.0
"""Inverse regularization strength ``C`` of the logistic regression."""


@dataclass
class UserBaselines:
    """Builds the baselines of any user from the user's training rows."""

    shared: TextModel
    base: TorchTextModel
    k: int
    seed: int = 0
    _vectors: dict[str, Any] = field(default_factory=dict)

    def build(self, name: Baseline, train: Sequence[Record]) -> TextModel:
        """Return a baseline; a user without usable rows gets the shared adapter."""
        examples = read_examples(train, self.seed)
        if name == "shared" or not examples:
            return self.shared
        if name == "classifier":
            rows = TextRows(examples, self._standardize([e.text for e in examples]))
            return rows.model(LinearClassifier(*rows.learned, REGULARIZATION))
        model = self.shared if name == "shared-retrieval" else self.base
        prompt = read_task(BaselineTask(train=train, base=lambda: model, seed=self.seed))
        retriever = Retriever(prompt.examples)
        return prompt.prompted(lambda text: retriever.find(text, self.k), describe=False)

    def _standardize(self, known: Sequence[str]) -> Any:
        """Return a function that turns texts into vectors, scaled by those of the known texts.

        A few dimensions of hidden states are much larger than the others.
        """
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        scale = make_pipeline(StandardScaler(), Normalizer()).fit(self._embed(known))
        return lambda texts: scale.transform(self._embed(texts))

    def _embed(self, texts: Sequence[str]) -> Any:
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self.base.embed(new), strict=True))
        return np.array([self._vectors[text] for text in texts], np.float64)
