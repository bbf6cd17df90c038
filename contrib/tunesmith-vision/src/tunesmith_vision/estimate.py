"""Predict the memory of training on images: that of the language model, and what images add.

For the language model, an image is as many tokens as its layout has, so rows are as long as in
training. Beside the model are the tower and the features of all images, which stay in the memory of
the CPU, and the projector in training.

A tower in training moves to the model's device. It computes the images of a micro-batch, so it
needs gradients, moments and activations in place of stored features.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tunesmith.estimates import Estimate, EstimateRequest, PhaseMemory
from tunesmith.records import Chat, Record, TextPart, has_media
from tunesmith_torch.memory_estimate.techniques import estimate_supervised
from tunesmith_torch.runtime.environment import prepare_environment
from tunesmith_vision.families import find_kind
from tunesmith_vision.images import find_images, replace_images
from tunesmith_vision.options import VisionOptions

if TYPE_CHECKING:  # it imports torch
    from tunesmith_vision.features import FeatureTable

__all__ = ["estimate"]

GUESSED_TOKENS = 64
"""Tokens of an image in the first estimate, which does not read the tower's config."""
FILLER = " a"
"""Text that tokenizers encode as one token, in place of each token of an image."""
TRAINED_COPIES = 5
"""Numbers per trained weight: itself, its gradient, AdamW's two moments, and its last value."""
SLACK = 1.5
"""Bound of the memory that images add, relative to the estimate: the tower also computes."""


def estimate(options: VisionOptions, request: EstimateRequest) -> Iterator[Estimate]:
    """Yield estimates, the first without reading the tower's config."""
    if request.tokenizer is not None and find_kind(request.tokenizer) == "blocks":
        options = options.model_copy(update={"packing": False})  # as in training
    guessed = estimate_supervised(options, _with_texts(request, GUESSED_TOKENS))
    if request.tokenizer is None or not has_media([*request.train, *request.test]):
        yield from guessed
        return
    yield replace(next(guessed), has_guessed_lengths=True)
    prepare_environment()
    from tunesmith_vision.features import ImageEncoder, as_record
    from tunesmith_vision.technique import open_table

    table = open_table(request.tokenizer, options)
    train, test = ([as_record(r, table) for r in part] for part in (request.train, request.test))
    later = estimate_supervised(
        options,
        replace(request, train=train, test=test),
        convert_template=lambda template: ImageEncoder.add_to(template, table),
    )
    next(later)  # without a tokenizer
    text_width = request.config.get("text_config", request.config)["hidden_size"]
    sizes = ImageSizes(
        tower=4 * table.tower.count_weights(),
        features=4 * table.rows * table.tower.width,
        projector=4 * table.tower.count_projector_weights(text_width),
        activations=_activations_per_row(request, table) if options.train_tower else 0.0,
    )
    for better in later:
        memory = {
            phase: _add(part, sizes.beside(phase, options, request.device))
            for phase, part in better.memory.items()
        }
        memory["train"] = _add(memory["train"], sizes.in_training(options, better))
        if options.train_tower:
            activations = {"tower activations": sizes.count_activations(options, better)}
            memory["train"] = _add(memory["train"], activations, least=0.0)
        yield replace(better, memory=memory)


@dataclass(frozen=True)
class ImageSizes:
    """The bytes of what images add to a run."""

    tower: int
    features: int
    """Features of all images."""
    projector: int
    activations: float
    """Activations of a tower in training, for the images of a row, on average."""

    def beside(self, phase: str, options: VisionOptions, device: str) -> dict[str, int]:
        """Return what a phase keeps in memory, without what only training needs."""
        found = {"projector": self.projector}
        if options.train_tower and phase == "train":
            return {**found, "tower": self.tower}
        if device == "cpu":  # where a tower is, unless it is trained
            found |= {"tower": self.tower, "image features": self.features}
        return found

    def in_training(self, options: VisionOptions, estimate: Estimate) -> dict[str, int]:
        """Return what training adds to the weights: gradients, moments and last values."""
        found = {}
        if options.train_projector:
            found["projector in training"] = (TRAINED_COPIES - 1) * self.projector
        if options.train_tower:
            found["tower in training"] = (TRAINED_COPIES - 1) * self.tower
        has_rates = (options.train_projector and options.projector_rate != 1) or (
            options.train_tower and options.tower_rate != 1
        )
        if options.language == "full" and has_rates:
            weights = estimate.memory["train"].components.get("weights", 0)
            found["last weights"] = weights * 4 // (estimate.compute_bytes or 4)
        return found

    def count_activations(self, options: VisionOptions, estimate: Estimate) -> int:
        """Return the activations of the tower in the largest micro-batch."""
        row_tokens = estimate.tokens / max(1, estimate.steps * options.batch_size)
        return round(self.activations * estimate.micro_batch_tokens / max(1.0, row_tokens))


def _activations_per_row(request: EstimateRequest, table: FeatureTable) -> float:
    """Return the bytes of activations for the images of a training row, on average.

    One forward pass measures the largest image; those of others are assumed to be proportional to
    their tokens.
    """
    rows = [
        {image.sha256: image for image in find_images(record.messages)}
        for record in request.train
        if isinstance(record, Chat)
    ]
    images = {name: image for row in rows for name, image in row.items()}
    if not images:
        return 0.0
    tokens = {name: len(table.tower.layout(image)) for name, image in images.items()}
    largest = max(tokens, key=tokens.__getitem__)
    per_token = table.tower.count_activation_bytes(images[largest]) / tokens[largest]
    return per_token * sum(tokens[name] for row in rows for name in row) / len(request.train)


def _add(memory: PhaseMemory, components: dict[str, int], *, least: float = 1.0) -> PhaseMemory:
    """Return the memory with further components, at least ``least`` times their size."""
    total = sum(components.values())
    return PhaseMemory(
        low=memory.low + round(least * total),
        expected=memory.expected + total,
        high=memory.high + round(SLACK * total),
        components={**memory.components, **components},
    )


def _with_texts(request: EstimateRequest, tokens: int) -> EstimateRequest:
    """Return the request with texts of so many tokens in place of images."""

    def as_text(record: Record) -> Record:
        if not isinstance(record, Chat):
            return record
        text = TextPart(FILLER * tokens)
        return replace(record, messages=replace_images(record.messages, lambda image: text))

    parts = [[*map(as_text, part)] for part in (request.train, request.test)]
    return replace(request, train=parts[0], test=parts[1])
