"""Predict the memory of training on images: that of the language model, and what images add.

For the language model, an image is as many tokens as its layout has. The two to six tokens that
templates of Qwen-VL and Gemma 3 write around each image are not counted. Beside the model are the
tower and the features of all images, which stay in the memory of the CPU, and the projector in
training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

from tunesmith.estimates import Estimate, EstimateRequest, PhaseMemory
from tunesmith.records import Chat, Record, TextPart, has_media
from tunesmith_torch.memory_estimate.techniques import estimate_supervised
from tunesmith_torch.runtime.environment import prepare_environment
from tunesmith_vision.families import find_kind
from tunesmith_vision.images import Image, find_images, replace_images
from tunesmith_vision.options import VisionOptions

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
    """Yield estimates, the first without reading the tower's config; none if the tower trains.

    How much memory a tower in training needs for its activations is not known.
    """
    if options.train_tower:
        return
    if request.tokenizer is not None and find_kind(request.tokenizer) == "blocks":
        options = options.model_copy(update={"packing": False})  # as in training
    guessed = _with_texts(request, lambda image: GUESSED_TOKENS)
    first = next(estimate_supervised(options, guessed))
    if request.tokenizer is None or not has_media([*request.train, *request.test]):
        yield first
        return
    yield replace(first, has_guessed_lengths=True)
    prepare_environment()
    from tunesmith_vision.technique import open_table

    table = open_table(request.tokenizer, options)
    exact = _with_texts(request, lambda image: len(table.tower.layout(image)))
    for record in (*request.train, *request.test):
        for image in find_images(record.messages) if isinstance(record, Chat) else ():
            table.number(image)
    text_width = request.config.get("text_config", request.config)["hidden_size"]
    beside = {"projector": 4 * table.tower.count_projector_weights(text_width)}
    if request.device == "cpu":  # where a frozen tower stays
        beside["tower"] = 4 * table.tower.count_weights()
        beside["image features"] = 4 * table.rows * table.tower.width
    later = estimate_supervised(options, exact)
    next(later)  # without a tokenizer
    for better in later:
        memory = {phase: _add(part, beside) for phase, part in better.memory.items()}
        memory["train"] = _add(memory["train"], _training_memory(options, beside, better))
        yield replace(better, memory=memory)


def _training_memory(
    options: VisionOptions, beside: dict[str, int], estimate: Estimate
) -> dict[str, int]:
    """Return what training adds: the projector's gradients and moments, and last values."""
    found = {}
    if options.train_projector:
        found["projector in training"] = (TRAINED_COPIES - 1) * beside["projector"]
    if options.language == "full" and options.projector_rate != 1:
        weights = estimate.memory["train"].components.get("weights", 0)
        found["last weights"] = weights * 4 // (estimate.compute_bytes or 4)
    return found


def _add(memory: PhaseMemory, components: dict[str, int]) -> PhaseMemory:
    total = sum(components.values())
    return PhaseMemory(
        low=memory.low + total,
        expected=memory.expected + total,
        high=memory.high + round(SLACK * total),
        components={**memory.components, **components},
    )


def _with_texts(request: EstimateRequest, count: Callable[[Image], int]) -> EstimateRequest:
    """Return the request with texts of as many tokens as ``count`` returns in place of images."""
    parts = [[_as_text(r, count) for r in part] for part in (request.train, request.test)]
    return replace(request, train=parts[0], test=parts[1])


def _as_text(record: Record, count: Callable[[Image], int]) -> Record:
    if not isinstance(record, Chat):
        return record

    messages = replace_images(record.messages, lambda image: TextPart(FILLER * count(image)))
    return replace(record, messages=messages)
