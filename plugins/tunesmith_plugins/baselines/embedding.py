"""The ``embedding`` and ``probe`` baselines: small classifiers that read vectors of the prompts.

``embedding`` reads the vectors of an encoder, and ``probe`` the hidden states of the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, partial
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, EmbeddingModel
from tunesmith.encoders import Vectors
from tunesmith.errors import UsageError
from tunesmith.execution.encoder import encode_once
from tunesmith.install import NO_ENCODER, NO_HIDDEN_STATES, install_encoder
from tunesmith.offers import BaselineOffer
from tunesmith.options import Options
from tunesmith_evidence.tasks.kinds import has_classes, has_recurring_answers

if TYPE_CHECKING:
    from tunesmith_evidence.classify.folds import FitClassifier

MARGIN = 1.0
"""Another classifier must beat logistic regression by this many standard errors out of fold.
Without a margin, 50 rows often choose a worse one."""

MAX_COMPARED_ROWS = 2_000
"""With more rows, logistic regression is used without a comparison, which would take minutes."""


class VectorOptions(Options):
    """Options of ``embedding``: the classifiers to choose from."""

    c: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        [10.0, 100.0],
        min_length=1,
        description=(
            "Inverse regularization strengths of logistic regression, as in scikit-learn. The "
            "first is used, unless cross-validation shows that another classifier is clearly more "
            "accurate. Cross-validation is skipped if there are more than 2,000 training rows. "
            "Logistic regression is not used if most answers occur only once."
        ),
    )
    k: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [1, 5], description="Numbers of similar training rows to try, which vote on the answer."
    )
    centroid: bool = Field(
        True, description="Also try the answer whose rows have the highest mean similarity."
    )

    def list_classifiers(self, answers: Sequence[str]) -> dict[str, FitClassifier]:
        """Return the candidate classifiers by name, with settings for these training answers."""
        from tunesmith_evidence.classify import classifiers

        linear = {f"C={c:g}": partial(classifiers.LinearClassifier, c=c) for c in self.c}
        nearest = {f"k={k}": partial(classifiers.NearestRowsClassifier, k=k) for k in self.k}
        if nearest and 2 * len(set(answers)) > len(answers):
            return dict(nearest)  # most answers occur once: there is nothing to learn about them
        if len(answers) > MAX_COMPARED_ROWS:  # cross-validating all candidates takes too long
            return dict([*linear.items()][:1])
        return {
            **linear,
            **nearest,
            **({"centroid": classifiers.NearestCentroid} if self.centroid else {}),
        }


class ProbeOptions(VectorOptions):
    """Options of ``probe``: the classifiers to choose from, and the number of training rows."""

    rows: int = Field(
        500,
        ge=1,
        le=20_000,
        description="Maximum number of training rows to learn from; each takes a forward pass.",
    )


@dataclass(frozen=True)
class Embedding:
    """Classifies prompts by their vectors from the run's encoder."""

    options: VectorOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the first classifier that no other one clearly beats in out-of-fold accuracy.

        Raises:
            UsageError: no encoder is installed.
        """
        from tunesmith_evidence.classify.text_classifier import TextRows, vectorize_with
        from tunesmith_evidence.tasks.examples import read_examples

        examples = read_examples(task.train, task.seed)
        if not examples:
            return
        if task.encoder is None:
            raise UsageError(f"{NO_ENCODER}; to try this classifier: {install_encoder()}")
        rows = TextRows(examples, vectorize_with(task.encoder().encode))
        name, model = rows.learn_best(self.options.list_classifiers(rows.learned[1]), MARGIN)
        yield BaselineVariant(name=name, model=model)


@dataclass(frozen=True)
class Probe:
    """Classifies prompts by the hidden states of the base model.

    In all texts, a few dimensions of the hidden states are much larger than the others. The probe
    therefore standardizes each dimension on the training rows, then scales vectors to length 1.
    """

    options: ProbeOptions
    known: dict[str, Any] = field(default_factory=dict)
    """The hidden states of the texts that were embedded so far."""

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant. It is trained at its first question, so the time budget covers it."""
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import Normalizer, StandardScaler

        from tunesmith_evidence.classify.function_model import FunctionModel
        from tunesmith_evidence.classify.text_classifier import TextRows, vectorize_with
        from tunesmith_evidence.tasks.examples import read_examples

        examples = read_examples(task.train, task.seed, self.options.rows)
        if not examples:
            return
        vectorize = vectorize_with(lambda texts: self._embed(task, texts))

        @cache
        def learn() -> FunctionModel:
            scale = make_pipeline(StandardScaler(), Normalizer())
            scale.fit(vectorize([example.text for example in examples]))
            rows = TextRows(examples, lambda texts: scale.transform(vectorize(texts)))
            return rows.learn_best(self.options.list_classifiers(rows.learned[1]), MARGIN)[1]

        yield BaselineVariant(name="", model=FunctionModel(lambda texts: learn().answer(texts)))

    def _embed(self, task: BaselineTask, texts: Sequence[str]) -> list[Any]:
        """Return the hidden states of each text. Texts seen before come from a cache."""

        def embed(new: Sequence[str]) -> Vectors:
            model = task.base()
            if not isinstance(model, EmbeddingModel):
                raise UsageError(f"{type(model).__name__}: {NO_HIDDEN_STATES}")
            return model.embed(new)  # as plain text: a template would add the same to each

        return encode_once(self.known, texts, embed)


NEEDS = ("numpy>=1.26", "scikit-learn>=1.5", "scipy>=1.13")
EMBEDDING = BaselineOffer(
    name="embedding",
    summary="a small classifier over the vectors of an encoder, such as all-MiniLM-L6-v2",
    config=VectorOptions,
    build=Embedding,
    needs=NEEDS,
    solution="classifier",
    cost=25,
    suits=has_recurring_answers,
)
PROBE = BaselineOffer(
    name="probe",
    summary="a small classifier over the base model's hidden states",
    config=ProbeOptions,
    build=Probe,
    needs=NEEDS,
    solution="classifier",
    cost=150,
    needs_model=True,
    suits=has_classes,
)
