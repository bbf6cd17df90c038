"""Limits on memory and rows during generation, which estimates use too (without torch).

A small model needs many cached tokens to keep a GPU busy. For a large model that many would take
more memory than the quantized model itself, and a few thousand suffice. Hence one limit in tokens
and one in bytes.
"""

from __future__ import annotations

TOKEN_BUDGET = 16_384
"""Maximum number of cached tokens, completions included: 380 MB for a 135M model in bf16."""
MAX_CACHE_BYTES = 2 << 30
"""Maximum size of the cache in bytes. While the cache grows, it briefly takes twice that."""
MAX_MERGED_BYTES = 2 << 30
"""Maximum bytes of weights with merged adapters while a model generates on a CPU."""
MAX_PACKED_BYTES = 2 << 30
"""Maximum bytes of frozen weights that are stored a second time for products on a CPU."""
MIN_TOKENS_TO_MERGE = 256
"""Minimum number of generated tokens for which merging adapters saves time."""
MAX_ROWS = 256
"""Maximum rows per step. More rows are not faster, and each needs a row of logits."""


def kv_bytes_per_token(
    num_kv_heads: int, head_dim: int, num_layers: int, bytes_per_value: int
) -> int:
    """Return the bytes that one token's keys and values take in all layers."""
    return 2 * num_kv_heads * head_dim * num_layers * bytes_per_value


def max_cached_tokens(
    num_kv_heads: int, head_dim: int, num_layers: int, bytes_per_value: int
) -> int:
    """Return how many tokens may be cached within both limits; at least 1."""
    bytes_per_token = kv_bytes_per_token(num_kv_heads, head_dim, num_layers, bytes_per_value)
    return max(1, min(TOKEN_BUDGET, MAX_CACHE_BYTES // max(1, bytes_per_token)))
