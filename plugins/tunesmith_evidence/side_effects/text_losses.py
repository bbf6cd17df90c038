"""Measure a model's loss on plain texts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from tunesmith.contracts import TextModel
from tunesmith.records import Record, last_exchange

__all__ = ["measure_losses"]


def measure_losses(
    model: TextModel, texts: Sequence[Record]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the loss of each text in nats per token, and its number of tokens."""
    scores = model.score([""] * len(texts), [last_exchange(record)[1].text for record in texts])
    counts = tuple(float(len(score.logprobs)) for score in scores)
    losses = tuple(
        -math.fsum(score.logprobs) / len(score.logprobs) if score.logprobs else 0.0
        for score in scores
    )
    return losses, counts
