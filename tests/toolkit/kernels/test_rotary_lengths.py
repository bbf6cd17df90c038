"""Row lengths at which rotary factors change are found, whatever the type of the embedding."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rope_models import DYNAMIC, LONGROPE, YARN, rope_model

from tunesmith_torch.kernels.rotary_lengths import (
    LengthClasses,
    length_classes,
    reset_rotary_state,
)


@pytest.mark.parametrize(
    ("kind", "rope", "changes", "expected"),
    [
        ("llama", {"rope_type": "default", "rope_theta": 10000.0}, {}, LengthClasses()),
        ("llama", YARN, {}, LengthClasses()),
        ("llama", LONGROPE, {}, LengthClasses((24,))),
        ("phi3", LONGROPE, {"original_max_position_embeddings": 24}, LengthClasses((24,))),
        (
            "phimoe",
            {**LONGROPE, "short_mscale": 1.1, "long_mscale": 1.2},
            {"num_local_experts": 2},
            LengthClasses((24,)),
        ),
        ("llama", DYNAMIC, {}, LengthClasses((96,), 96)),
        (
            "gemma3_text",
            {"full_attention": LONGROPE, "sliding_attention": YARN},
            {"head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]},
            LengthClasses((24,)),
        ),
    ],
    ids=lambda value: value.get("rope_type", "") if isinstance(value, dict) else str(value),
)
def test_thresholds_are_found(
    kind: str, rope: dict[str, Any], changes: dict[str, Any], expected: LengthClasses
) -> None:
    assert length_classes(rope_model(kind, rope, **changes)) == expected


def test_rows_up_to_a_threshold_are_one_class_and_longer_ones_another() -> None:
    classes = LengthClasses((24, 80))
    assert [classes.class_of(n) for n in (1, 24, 25, 80, 81, 500)] == [0, 0, 1, 1, 2, 2]
    each = LengthClasses((24,), exact_beyond=24)
    assert [each.class_of(n) for n in (24, 25, 26)] == [0, 25, 26]


def test_dynamic_factors_are_reset_after_long_rows() -> None:
    """Also for a row exactly as long as the original context, which transformers does not reset."""
    llama = rope_model("llama", DYNAMIC)
    rotary = llama.model.rotary_emb
    assert length_classes(llama).has_state
    x, positions = torch.zeros(1), torch.arange(96)[None]
    before = rotary(x, positions)[0]
    rotary(x, torch.arange(200)[None])
    assert not torch.equal(rotary(x, positions)[0], before)
    reset_rotary_state(llama)
    assert torch.equal(rotary(x, positions)[0], before)
