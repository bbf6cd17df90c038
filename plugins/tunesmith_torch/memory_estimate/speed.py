"""Measure how fast this machine computes one layer of a model, in a fraction of a second.

Processors with the same features differ by a factor of ten, and other programs take their share. A
layer of the model's own sizes, with random weights and in the run's number format, shows both.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tunesmith_torch.memory_estimate import meta_model
from tunesmith_torch.memory_estimate.model_shape import ModelShape

__all__ = ["Speed", "measure_speed"]

ROWS, MAX_TOKENS = 16, 1024
"""Rows, and highest number of tokens, of the measured batch."""
MAX_OPERATIONS = 1e11
"""Highest number of operations of a training pass, so that large layers take no longer."""
SECONDS = 0.03
"""Each computation is repeated for this time, and at least once."""


@dataclass(frozen=True)
class Speed:
    """The measured speed of a layer on the processor of this machine."""

    training: float
    """Operations per second in forward and backward passes."""
    forward: float
    """Operations per second in forward passes of whole prompts."""
    generated_token: float
    """Number of prompt tokens that are computed in the time of one token of 16 answers."""


def measure_speed(config: Mapping[str, Any], compute_bytes: int, tokens: int) -> Speed:
    """Measure a layer of the model with this ``config.json`` on the processor.

    Args:
        compute_bytes: bytes per number: 4 for fp32, 2 for bf16.
        tokens: number of tokens in a step of the training.
    """
    shape = ModelShape.from_config(config)
    per_token = 2.0 * shape.active_layer_weights / shape.layers
    most = min(tokens, MAX_TOKENS, int(MAX_OPERATIONS / (3 * per_token)))
    length = max(1, most // ROWS)
    layer_config = meta_model.make_meta_config(config, layers=1)
    text = layer_config.get_text_config()
    text.vocab_size, text.pad_token_id = 8, None
    dtype = torch.bfloat16 if compute_bytes == 2 else torch.float32
    with torch.random.fork_rng(devices=[]):
        model: Any = meta_model.make_meta_model(layer_config, dtype, "sdpa").to_empty(device="cpu")
        model.init_weights()
        meta_model.use_fused_norms(model)
        embedded_BTD = torch.randn(ROWS, length, shape.hidden_size, dtype=dtype)

    def forward(tokens: int) -> Any:
        given = embedded_BTD[:, :tokens].requires_grad_(torch.is_grad_enabled())
        return model.get_decoder()(inputs_embeds=given, use_cache=False).last_hidden_state

    trained = _time(lambda: forward(length).sum().backward())
    with torch.no_grad():
        read, generated = _time(lambda: forward(length)), _time(lambda: forward(1))
    operations = per_token * ROWS * length
    return Speed(3 * operations / trained, operations / read, max(1.0, length * generated / read))


def _time(compute: Callable[[], object]) -> float:
    """Return the mean seconds of a computation, after one that warms up."""
    compute()
    started, repeats = time.perf_counter(), 0
    while not repeats or time.perf_counter() - started < SECONDS:
        compute()
        repeats += 1
    return (time.perf_counter() - started) / repeats
