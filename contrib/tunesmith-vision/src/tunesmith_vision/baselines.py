"""Baselines for images: small classifiers on the tower's features, and the untuned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Generation, Progress
from tunesmith.errors import UsageError
from tunesmith.options import Options
from tunesmith.records import Prompt, Record, has_media, last_exchange
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_vision.images import Image

__all__ = [
    "ImageMajority",
    "ImageMajorityOptions",
    "ImageNearest",
    "ImageNearestOptions",
    "ImageProbe",
    "ImageProbeOptions",
    "ImageZeroShot",
    "ImageZeroShotOptions",
    "suits_classifier",
]

Vectors = NDArray[np.float64]


class ImageProbeOptions(Options):
    """Options of ``image-probe``: the strengths of regularization to choose from."""

    c: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        [10.0, 100.0, 1000.0],
        min_length=1,
        description="Inverse regularization strengths of logistic regression on the features.",
    )


class ImageNearestOptions(Options):
    """Options of ``image-nearest``: the numbers of neighbors to choose from."""

    k: list[Annotated[int, Field(ge=1, le=1000)]] = Field(
        [1, 5], min_length=1, description="Numbers of similar training images that vote."
    )


class ImageMajorityOptions(Options):
    """``image-majority`` has no options."""


class ImageZeroShotOptions(Options):
    """``image-zero-shot`` has no options."""


def suits_classifier(records: Sequence[Record]) -> bool:
    """Return True if the rows have images, and at least half of their answers occur again."""
    if not has_media(records):
        return False
    answers = [last_exchange(record)[1].text for record in records]
    return 2 * len(set(answers)) <= len(answers)


@dataclass(frozen=True)
class ImageMajority:
    """The most frequent answer, whatever the image."""

    options: ImageMajorityOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the only variant."""
        from tunesmith_evidence.classify.classifiers import NearestRowsClassifier

        labels = [last_exchange(record)[1].text for record in task.train]
        if not labels:
            return
        # Without a similar row, a classifier answers with the most frequent label.
        blank = NearestRowsClassifier(np.zeros((len(labels), 1)), labels, 1)
        model = _ImageClassifier(blank, lambda prompts: np.zeros((len(prompts), 1)))
        yield BaselineVariant(name="", model=model)


@dataclass(frozen=True)
class ImageProbe:
    """A linear probe: logistic regression on the mean features of a prompt's images."""

    options: ImageProbeOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant for each strength of regularization."""
        from tunesmith_evidence.classify.classifiers import LinearClassifier

        if not task.train:
            return
        vectors, rows, labels = _learn_rows(task)
        for c in self.options.c:
            model = _ImageClassifier(LinearClassifier(rows, labels, c), vectors)
            yield BaselineVariant(name=f"C={c:g}", model=model)


@dataclass(frozen=True)
class ImageNearest:
    """The answer of the training images with the most similar features."""

    options: ImageNearestOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant for each number of neighbors."""
        from tunesmith_evidence.classify.classifiers import NearestRowsClassifier

        if not task.train:
            return
        vectors, rows, labels = _learn_rows(task)
        for k in self.options.k:
            model = _ImageClassifier(NearestRowsClassifier(rows, labels, k), vectors)
            yield BaselineVariant(name=f"k={k}", model=model)


@dataclass(frozen=True)
class ImageZeroShot:
    """The untuned vision-language model."""

    options: ImageZeroShotOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the base model, unless its projector is untrained."""
        base: Any = task.base()
        table = getattr(base, "table", None)
        untrained = table is None or not table.tower.is_pretrained
        omitted = "the base model was never trained on images" if untrained else ""
        yield BaselineVariant(name="", model=base, omitted=omitted)


def _learn_rows(task: BaselineTask) -> tuple[Callable[..., Vectors], Vectors, list[str]]:
    """Return the encoder of prompts, and the vectors and labels of the training rows."""
    from tunesmith_vision.features import FeatureTable
    from tunesmith_vision.towers import LiteTower

    table = FeatureTable(LiteTower(), vocabulary=0)

    def vectorize(prompts: Sequence[Prompt]) -> Vectors:
        return np.stack([_vector(prompt, table) for prompt in prompts])

    pairs = [last_exchange(record) for record in task.train]
    return vectorize, vectorize([p for p, _ in pairs]), [answer.text for _, answer in pairs]


def _vector(prompt: Prompt, table: Any) -> Vectors:
    """Return the mean features of a prompt's images, with length 1; zeros without images."""
    messages = () if isinstance(prompt, str) else prompt
    images = [part for m in messages for part in m.media if isinstance(part, Image)]
    means = [table.features(table.number(image)).mean(0).double().numpy() for image in images]
    if not means:
        return np.zeros(table.tower.width)
    mean = np.mean(means, axis=0)
    return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


@dataclass(frozen=True)
class _ImageClassifier(GenerationOnlyModel):
    """A classifier of images as a text model; it cannot score."""

    classifier: Any
    vectorize: Callable[[Sequence[Prompt]], Vectors]

    def generate(
        self, prompts: Sequence[Prompt], max_new_tokens: int, *, progress: Progress | None = None
    ) -> Sequence[Generation]:
        """Return the label of each prompt's images."""
        from tunesmith_evidence.classify.classifiers import predict

        labels = predict(self.classifier, self.vectorize(prompts)) if prompts else []
        if progress is not None:
            progress(len(prompts))
        return [Generation(label, len(label.split()) + 1, "stop") for label in labels]

    @property
    def refusal(self) -> UsageError:
        """The error for scoring existing answers: a classifier has no token probabilities."""
        return UsageError(
            "a classifier does not compute log-probabilities of answers",
            hint="use an evaluator that compares generated answers, such as exact-match",
        )
