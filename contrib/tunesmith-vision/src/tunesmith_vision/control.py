"""Evaluator ``image-control``: does the model look at its images?

Every test row is also measured with the images of other rows, which have another answer to the same
question. If the reference answers become no less likely, the model answers from the text alone, or
from what it knows about the labels. The verdict of the run then states this, whatever the accuracy
is. If the rows are too few to tell, the built-in rule decides.

Rows that cannot show anything do not count: rows without images, and rows for which every other
image has the same answer.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

from tunesmith.contracts import Measurement, TextModel
from tunesmith.events import JSON, TUNED
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.plan import Evidence
from tunesmith.records import (
    Chat,
    Message,
    Prompt,
    Record,
    TextPart,
    has_media,
    last_exchange,
    to_answer,
)
from tunesmith.statistics import mean_interval
from tunesmith_vision.images import Image, find_images, replace_images

__all__ = ["IMAGE_CONTROL", "ImageControl", "OtherImages", "give_verdict"]

NAME, METRIC = "image-control", "image-gain"
DOES_NOT_LOOK = "DOES NOT LOOK"
NO_GAIN = 0.1
"""A gain that is certainly below this number of nats per answer counts as none."""
_UNBOUNDED = (-math.inf, math.inf)


class ImageControlOptions(Options):
    """``image-control`` has no options."""


@dataclass(frozen=True)
class ImageControl:
    """Measures how much less likely the reference answers are with images of other rows."""

    options: ImageControlOptions

    def prepare(self, references: Sequence[Record]) -> PreparedControl:
        """Return the evaluator whose other images are those of all test rows."""
        return PreparedControl(OtherImages.of(references))

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return the gain in nats per answer that the right images give."""
        return self.prepare(records).measure(model, records)


@dataclass(frozen=True)
class PreparedControl:
    """The evaluator with the images to choose from."""

    others: OtherImages

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return the gain in nats per answer that the right images give."""
        pairs = [last_exchange(record) for record in records]
        answers = [to_answer(answer) for _, answer in pairs]
        swapped = [self.others.swap(prompt, answer) for prompt, answer in pairs]
        right = model.score([prompt for prompt, _ in pairs], answers)
        wrong = model.score([prompt for prompt, _ in swapped], answers)
        values = tuple(sum(a.logprobs) - sum(b.logprobs) for a, b in zip(right, wrong, strict=True))
        weights = tuple(float(counts) for _, counts in swapped)
        if not any(weights):
            finding = "cannot tell whether the model looks: no two rows differ in image and answer"
            return [Measurement(metric=METRIC, values=values, details={"finding": finding})]
        groups = [
            record.group or next((image.sha256 for image in find_images(prompt)), None)
            for record, (prompt, _) in zip(records, pairs, strict=True)
        ]
        mean = mean_interval(values, weights, groups=groups, bounds=_UNBOUNDED)
        looks = True if mean.low > 0 else False if mean.high < NO_GAIN else None
        finding = (
            f"the right images make answers {mean.value:.3g} nats more likely than the images of "
            f"other rows (between {mean.low:.3g} and {mean.high:.3g}, {mean.n:,} rows)"
        )
        return [
            Measurement(
                metric=METRIC,
                values=values,
                weights=weights,
                interval=(mean.low, mean.high) if math.isfinite(mean.high - mean.low) else None,
                details={"looks": looks, "holds": mean.low > 0, "finding": finding},
            )
        ]


@dataclass(frozen=True)
class OtherImages:
    """The images of all test rows, and which answers they have."""

    images: dict[str, Image]
    """The images by SHA-256, which is also their order: it depends on their contents alone."""
    owners: dict[Any, set[str]]
    """The SHA-256 of the images with which a question has an answer."""

    @classmethod
    def of(cls, records: Sequence[Record]) -> OtherImages:
        """Return the images of these rows."""
        images: dict[str, Image] = {}
        owners: dict[Any, set[str]] = defaultdict(set)
        for prompt, answer in map(last_exchange, records):
            found = {image.sha256: image for image in find_images(prompt)}
            images |= found
            owners[_question(prompt), answer.shown_text] |= found.keys()
        return cls(dict(sorted(images.items())), owners)

    def swap(self, prompt: Prompt, answer: Message) -> tuple[Prompt, bool]:
        """Return the prompt with other images, and whether they belong to another answer.

        Each image is replaced by the next one in the order that no row has with the same question
        and answer. Without such an image, it is the next one of all.
        """
        if isinstance(prompt, str):
            return prompt, False
        same = self.owners.get((_question(prompt), answer.shown_text), set())
        chosen: dict[str, Image] = {}
        for image in find_images(prompt):
            used = {image.sha256, *(other.sha256 for other in chosen.values())}
            if image.sha256 not in chosen:
                other = self._next(image, used | same) or self._next(image, used)
                chosen[image.sha256] = other or image

        messages = replace_images(prompt, lambda image: chosen[image.sha256])
        return messages, any(other.sha256 not in {image, *same} for image, other in chosen.items())

    def _next(self, image: Image, without: set[str]) -> Image | None:
        start = bisect(self._order, image.sha256)
        following = chain(self._order[start:], self._order[:start])
        return next((self.images[each] for each in following if each not in without), None)

    @cached_property
    def _order(self) -> list[str]:
        return [*self.images]


def _question(prompt: Prompt) -> Any:
    """Return a prompt with all images alike."""
    if isinstance(prompt, str):
        return prompt
    return tuple(
        tuple(p.text if isinstance(p, TextPart) else "" for p in m.content) if m.media else m
        for m in prompt
    )


def give_verdict(evidence: Evidence) -> JSON | None:
    """Return a verdict if the tuned model does not look at its images; otherwise None."""
    measured = (e for e in evidence.measured if (e.model, e.metric) == (TUNED, METRIC))
    event = next(measured, None)
    if event is None or event.details.get("looks") is not False:
        return None
    return {
        "word": DOES_NOT_LOOK,
        "worth_it": False,
        "rule": "with the images of other rows, the reference answers are as likely",
        "sentence": (
            "the model does not look at the images: its answers are as likely with the images of "
            f"other rows (gain {event.value:.3g} nats per answer)"
        ),
        "evaluator": NAME,
        "metric": METRIC,
        "tuned": event.value,
    }


IMAGE_CONTROL = EvaluatorOffer(
    name=NAME,
    summary="whether the model looks at its images: the gain over the images of other rows",
    config=ImageControlOptions,
    build=ImageControl,
    metrics=(Metric(name=METRIC, higher_is_better=True, unit="nats", is_descriptive=True),),
    accepts=frozenset({Chat}),
    default_for=has_media,
    reads_media=True,
    scores_references=True,
)
