"""Limits of memory and rows in generation; torch is not imported, because plans use them too.

A small model needs many tokens per step to keep a GPU busy. For a large one, that many would take
more memory than the quantized model itself, and a few thousand suffice. Therefore there is a limit
in tokens and one in bytes.
"""

from __future__ import annotations

TOKEN_BUDGET = 16_384
"""Largest number of cached tokens, completions included: 380 MB for a 135M model in bf16."""
MAX_CACHE_BYTES = 2 << 30
"""Largest size of the cache; for a moment twice that while it grows by copying."""
MAX_MERGED_BYTES = 2 << 30
"""Largest size of weights with merged adapters, while a model generates on a CPU."""
MIN_TOKENS_TO_MERGE = 256
"""Number of generated tokens from which merging adapters saves more time than it takes."""
MAX_ROWS = 256
"""Largest number of rows in a step. More gain nothing, and each needs a row of logits."""


def kv_bytes_per_token(
    num_kv_heads: int, head_dim: int, num_layers: int, bytes_per_value: int
) -> int:
    """Return the bytes of the keys and values of one token in all layers."""
    return 2 * num_kv_heads * head_dim * num_layers * bytes_per_value


def max_cached_tokens(
    num_kv_heads: int, head_dim: int, num_layers: int, bytes_per_value: int
) -> int:
    """Return the number of tokens whose keys and values fit into the limits."""
    bytes_per_token = kv_bytes_per_token(num_kv_heads, head_dim, num_layers, bytes_per_value)
    return max(1, min(TOKEN_BUDGET, MAX_CACHE_BYTES // max(1, bytes_per_token)))
