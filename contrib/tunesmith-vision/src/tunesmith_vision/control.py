"""Evaluator ``image-control``: does the model look at its images?

Every test row is also measured with the images of another row. If the reference answers become no
less likely, the model answers from the text alone, or from what it knows about the labels. The
verdict of the run then states this, whatever the accuracy is. If the rows are too few to tell, the
built-in rule decides.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, stdev
from typing import Any

from tunesmith.contracts import Measurement, TextModel
from tunesmith.events import JSON, TUNED
from tunesmith.offers import EvaluatorOffer, Metric
from tunesmith.options import Options
from tunesmith.plan import Evidence
from tunesmith.records import Chat, Message, Prompt, Record, has_media, last_exchange, to_answer
from tunesmith_vision.images import Image

__all__ = ["IMAGE_CONTROL", "ImageControl", "give_verdict", "shuffle_images"]

NAME, METRIC = "image-control", "image-gain"
DOES_NOT_LOOK = "DOES NOT LOOK"
NO_GAIN = 0.1
"""A gain that is certainly below this number of nats per answer counts as none."""
_INTERVAL = 1.96


class ImageControlOptions(Options):
    """``image-control`` has no options."""


@dataclass(frozen=True)
class ImageControl:
    """Measures how much less likely the reference answers are with images of other rows."""

    options: ImageControlOptions

    def measure(self, model: TextModel, records: Sequence[Record]) -> Sequence[Measurement]:
        """Return the gain in nats per answer that the right images give."""
        pairs = [last_exchange(record) for record in records]
        prompts = [prompt for prompt, _ in pairs]
        answers = [to_answer(answer) for _, answer in pairs]
        shuffled = shuffle_images(prompts)
        right = model.score(prompts, answers)
        wrong = model.score(shuffled, answers)
        values = tuple(sum(a.logprobs) - sum(b.logprobs) for a, b in zip(right, wrong, strict=True))
        if shuffled == prompts:
            same = {"finding": "cannot tell whether the model looks: the rows share one image"}
            return [Measurement(metric=METRIC, values=values, details=same)]
        half = _half_width(values)
        lower, upper = fmean(values) - half, fmean(values) + half
        looks = True if lower > 0 else False if upper < NO_GAIN else None
        finding = (
            f"the right images make answers {fmean(values):.3g} nats more likely than the images "
            f"of other rows (between {lower:.3g} and {upper:.3g})"
        )
        shown = {"looks": looks, "holds": lower > 0, "finding": finding}
        return [Measurement(metric=METRIC, values=values, details=shown)]


def _half_width(values: Sequence[float]) -> float:
    """Return half the width of the 95 % interval of the mean; infinity for one row."""
    if len(values) < 2:
        return math.inf
    return _INTERVAL * stdev(values) / math.sqrt(len(values))


def shuffle_images(prompts: Sequence[Prompt]) -> list[Prompt]:
    """Return the prompts with each image replaced by one of another, with different content.

    The images are sorted by a hash of their content and moved by one place, so every image is
    used, none stays in place, and the order of the prompts has no effect.
    """
    images = {image.sha256: image for prompt in prompts for image in _images(prompt)}
    order = sorted(images, key=lambda sha256: hashlib.sha256(sha256.encode()).hexdigest())
    others = dict(zip(order, [*order[1:], *order[:1]], strict=True))

    def swap(part: Any) -> Any:
        return images[others[part.sha256]] if isinstance(part, Image) else part

    return [
        prompt
        if isinstance(prompt, str)
        else tuple(
            replace(message, content=tuple(map(swap, message.content)))
            if message.media
            else message
            for message in prompt
        )
        for prompt in prompts
    ]


def _images(prompt: Prompt) -> Iterator[Image]:
    for message in prompt if not isinstance(prompt, str) else ():
        assert isinstance(message, Message)
        yield from (part for part in message.media if isinstance(part, Image))


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
