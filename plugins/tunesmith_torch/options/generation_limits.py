"""How much generation does at once and keeps in its cache. No torch here: plans use it too.

A small model is kept busy by many tokens; for a large one they would take more memory than the
quantised model itself, and a few thousand keep it as busy.
"""

from __future__ import annotations

TOKEN_BUDGET = 16_384
"""Slots of the cache at most, answers included: 380 MB for a 135M model in bf16."""
CACHE_BYTES = 2 << 30
"""Bytes of the cache at most, and for a moment twice that where it grows by copying."""
FOLDED_BYTES = 2 << 30
"""Bytes of weights with their adapters folded in, at most, while answers are made on a CPU."""
WORTH_FOLDING = 256
"""Tokens of answers from which on folding takes less time than it saves."""
MAX_ROWS = 256
"""Rows in a step. More than this gain nothing, and each has a row of logits."""


def slot_bytes(key_heads: int, head_width: int, layers: int, item_bytes: int) -> int:
    """Keys and values of all layers for one token."""
    return 2 * key_heads * head_width * layers * item_bytes


def cached_tokens(key_heads: int, head_width: int, layers: int, item_bytes: int) -> int:
    """Slots that fit into the bytes."""
    slot = slot_bytes(key_heads, head_width, layers, item_bytes)
    return max(1, min(TOKEN_BUDGET, CACHE_BYTES // max(1, slot)))
