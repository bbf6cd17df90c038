"""The architectures of the matrix, and variants of some with other values in their config."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tests.architectures.models import Case
from tests.architectures.sizes import ROPE, Sizes
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

FAST = (
    "llama",
    "qwen3",
    "mistral",
    "gemma3_text",
    "phi3",
    "gpt2",
    "mixtral",
    "deepseek_v3",
    "gpt_oss",
    "cohere2",
    "olmo2",
    "mamba",
)
"""The architectures of the fast lane: dense, windowed, a mixture, latent attention, recurrent."""


def rope(sizes: Sizes, kind: str, **values: object) -> dict[str, object]:
    """Return the change to a config that scales its rotary embedding."""
    parameters = {**ROPE, "rope_type": kind, "factor": 4.0, **values}
    return {"rope_parameters": parameters}


def variants(sizes: Sizes) -> list[Case]:
    """Return the variants."""
    original = {"original_max_position_embeddings": sizes.original_context}
    factors = {
        "short_factor": [1.0 + 0.1 * i for i in range(sizes.head // 2)],
        "long_factor": [2.0 + i for i in range(sizes.head // 2)],
    }
    half = sizes.layers // 2
    window = {"use_sliding_window": True, "sliding_window": sizes.window}
    return [
        Case("llama", "rope linear", rope(sizes, "linear")),
        Case("llama", "rope dynamic", rope(sizes, "dynamic", **original)),
        Case("llama", "rope yarn", rope(sizes, "yarn", **original)),
        Case("llama", "rope longrope", rope(sizes, "longrope", **original, **factors)),
        Case(
            "llama",
            "rope llama3",
            rope(sizes, "llama3", low_freq_factor=1.0, high_freq_factor=4.0, **original),
        ),
        Case("llama", "biases, tied", {"attention_bias": True, "tie_word_embeddings": True}),
        Case(
            "phi3",
            "longrope",
            {
                **rope(sizes, "longrope", **original, **factors),
                "original_max_position_embeddings": sizes.original_context,
            },
        ),
        Case("phi3", "no window", {"sliding_window": None}),
        Case("mistral", "no window", {"sliding_window": None}),
        Case(
            "qwen2",
            "window in half of the layers",
            {**window, "max_window_layers": half, "layer_types": None},
        ),
        Case(
            "qwen3",
            "window in half of the layers",
            {**window, "max_window_layers": half, "layer_types": None},
        ),
        Case("mixtral", "window", {"sliding_window": sizes.window}),
        Case("qwen3_moe", "dense layers between", {"mlp_only_layers": [1]}),
        Case("deepseek_v3", "rope yarn", rope(sizes, "yarn", **original)),
        Case("deepseek_v3", "no query rank", {"q_lora_rank": None}),
        Case("gpt2", "scaled by layer", {"scale_attn_by_inverse_layer_idx": True}),
        Case("gpt_neox", "sequential", {"use_parallel_residual": False}),
        Case("falcon", "alibi", {"alibi": True}),
        Case("falcon", "new decoder", {"new_decoder_architecture": True, "num_kv_heads": 2}),
        Case("stablelm", "query norm", {"qk_layernorm": True, "use_parallel_residual": True}),
        Case("olmo", "clipped", {"clip_qkv": 0.5}),
        Case("cohere", "query norm", {"use_qk_norm": True}),
        Case(
            "granite",
            "multipliers",
            {
                "embedding_multiplier": 3.0,
                "logits_scaling": 2.0,
                "residual_multiplier": 0.5,
                "attention_multiplier": 0.3,
            },
        ),
        Case(
            "gemma2",
            "other caps",
            {
                "final_logit_softcapping": 2.0,
                "attn_logit_softcapping": 1.5,
            },
        ),
        Case("bert", "not causal", {"is_decoder": False}),
        Case("opt", "projected embeddings", {"word_embed_proj_dim": sizes.hidden // 2}),
        Case("bloom", "residual after norm", {"apply_residual_connection_post_layernorm": True}),
        Case("reformer", "local attention alone", {"attn_layers": ["local"] * sizes.layers}),
    ]


def all_cases(sizes: Sizes) -> list[Case]:
    """Return every architecture that transformers has a causal language model for."""
    return [*map(Case, MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), *variants(sizes)]


def fast_cases() -> list[Case]:
    """Return the cases of the fast lane."""
    return [Case(name) for name in FAST]


def select(cases: Iterable[Case], names: Sequence[str]) -> list[Case]:
    """Return the cases with these names or types; all if there are none."""
    return [c for c in cases if not names or str(c) in names or c.model_type in names]
