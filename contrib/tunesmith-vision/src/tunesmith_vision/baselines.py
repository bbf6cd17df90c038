"""Baselines for images: small classifiers on features or pixels, and the untuned model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from tunesmith.contracts import BaselineTask, BaselineVariant, Generation, Progress
from tunesmith.errors import UsageError
from tunesmith.options import Options
from tunesmith.records import Prompt, Record, has_media, last_exchange
from tunesmith_evidence.answers.generation_only import GenerationOnlyModel
from tunesmith_vision.images import Image, find_images, open_picture

__all__ = [
    "ImageMajority",
    "ImageMajorityOptions",
    "ImageNearest",
    "ImageNearestOptions",
    "ImagePixels",
    "ImagePixelsOptions",
    "ImageProbe",
    "ImageProbeOptions",
    "ImageZeroShot",
    "ImageZeroShotOptions",
    "suits_classifier",
]

Vectors = NDArray[np.float64]
PIXELS = 32
"""Width and height that ``image-pixels`` resizes images to."""


class ImageProbeOptions(Options):
    """Options of ``image-probe``: the strengths of regularization to choose from."""

    c: list[Annotated[float, Field(gt=0, le=1e6)]] = Field(
        [10.0, 100.0, 1000.0],
        min_length=1,
        description="Inverse regularization strengths of logistic regression on the features.",
    )


class ImagePixelsOptions(ImageProbeOptions):
    """Options of ``image-pixels``: the strengths of regularization to choose from."""


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
        if task.train:
            yield from _fit_linear(task, _tower_encoder(), self.options.c)


@dataclass(frozen=True)
class ImagePixels:
    """Logistic regression on the pixels of small copies of a prompt's images."""

    options: ImagePixelsOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant for each strength of regularization."""
        if task.train:
            encoder = _Encoder(cache(_read_pixels), 3 * PIXELS**2)
            yield from _fit_linear(task, encoder, self.options.c)


@dataclass(frozen=True)
class ImageNearest:
    """The answer of the training images with the most similar features."""

    options: ImageNearestOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield one variant for each number of neighbors."""
        from tunesmith_evidence.classify.classifiers import NearestRowsClassifier

        if not task.train:
            return
        encoder = _tower_encoder()
        rows, labels = _learn_rows(task, encoder)
        for k in self.options.k:
            model = _ImageClassifier(NearestRowsClassifier(rows, labels, k), encoder.encode)
            yield BaselineVariant(name=f"k={k}", model=model)


@dataclass(frozen=True)
class ImageZeroShot:
    """The untuned vision-language model."""

    options: ImageZeroShotOptions

    def variants(self, task: BaselineTask) -> Iterator[BaselineVariant]:
        """Yield the base model, unless its projector is untrained."""
        base: Any = task.base()
        table = getattr(getattr(base, "template", None), "table", None)
        untrained = table is None or not table.tower.is_pretrained
        omitted = "the base model was never trained on images" if untrained else ""
        yield BaselineVariant(name="", model=base, omitted=omitted)


def _fit_linear(
    task: BaselineTask, encoder: _Encoder, strengths: Sequence[float]
) -> Iterator[BaselineVariant]:
    from tunesmith_evidence.classify.classifiers import LinearClassifier

    rows, labels = _learn_rows(task, encoder)
    for c in strengths:
        model = _ImageClassifier(LinearClassifier(rows, labels, c), encoder.encode)
        yield BaselineVariant(name=f"C={c:g}", model=model)


def _learn_rows(task: BaselineTask, encoder: _Encoder) -> tuple[Vectors, list[str]]:
    """Return the vectors and the labels of the training rows."""
    pairs = [last_exchange(record) for record in task.train]
    return encoder.encode([p for p, _ in pairs]), [answer.text for _, answer in pairs]


@dataclass(frozen=True)
class _Encoder:
    """Turns prompts into vectors: the mean of their images' vectors, with length 1."""

    vector: Callable[[Image], Vectors]
    width: int

    def encode(self, prompts: Sequence[Prompt]) -> Vectors:
        """Return the vector of each prompt; zeros for a prompt without images."""
        return np.stack([self._encode(prompt) for prompt in prompts])

    def _encode(self, prompt: Prompt) -> Vectors:
        images = [*find_images(prompt)]
        if not images:
            return np.zeros(self.width)
        mean = np.mean([self.vector(image) for image in images], axis=0)
        return np.asarray(mean / max(float(np.linalg.norm(mean)), 1e-12))


def _tower_encoder() -> _Encoder:
    """Return the encoder by the mean features of the small tower."""
    from tunesmith_vision.features import FeatureTable
    from tunesmith_vision.towers import LiteTower

    table = FeatureTable(LiteTower(), vocabulary=0)

    def average(image: Image) -> Vectors:
        return np.asarray(table.features(table.number(image)).mean(0).double().numpy())

    return _Encoder(average, table.tower.width)


def _read_pixels(image: Image) -> Vectors:
    from PIL.Image import Resampling

    picture = open_picture(image).resize((PIXELS, PIXELS), Resampling.BILINEAR)
    return np.asarray(picture, np.float64).ravel() / 255


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
