"""Test whether attention with a shared prefix and a cache gives the plain model's results.

Two rows with a common prefix are computed in the three ways that scoring and generation use. Each
prediction is compared with the model's own forward pass over the row alone::

    scoring     prefix | a a a . . .      padded on the right
                prefix | b b b b b b
    prompts     prefix | . . . a a a      padded on the left
                prefix | b b b b b b
    decoding    one more token for each row
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tunesmith_torch.data.packing import Example, collate
from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.kv_cache import DecodingCache
from tunesmith_torch.generation.prefill import decode_next, prefill
from tunesmith_torch.generation.prefix_attention import Prefix
from tunesmith_torch.losses.selected_positions import (
    get_lm_head,
    hidden_at_targets,
    max_logprob_difference,
)
from tunesmith_torch.models.self_check import TOLERANCE_NATS, ForwardErrors, choose_check_lengths

__all__ = ["declare_copy"]

PREFIX_TOKENS = 9
ROW_TOKENS = 3, 6
"""Number of tokens in each test row after the prefix, without the decoded tokens."""
DECODED_TOKENS = 2

_originals: WeakKeyDictionary[nn.Module, PreTrainedModel] = WeakKeyDictionary()
_cached: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()
_padded: WeakKeyDictionary[nn.Module, dict[tuple[int, ...], bool]] = WeakKeyDictionary()


def declare_copy(copied: nn.Module, original: nn.Module) -> None:
    """Let a copy with other weights share the results of the original's tests.

    Both must compute in the same way; PEFT's wrapper is allowed. A test takes as long as a short
    answer, which matters if there is a copy for each of a thousand users.
    """
    try:
        inner, tested = (prefix_cache.unwrap_model(model) for model in (copied, original))
    except prefix_attention.UnsupportedModel:
        return  # such models are never tested
    _originals[inner] = _originals.get(tested, tested)


def can_use_cached_attention(model: PreTrainedModel, longest: int) -> bool:
    """Return True if rows of up to ``longest`` tokens can use a shared prefix and a cache.

    Each model is tested once: its weights may change later, but not the way it computes.
    """
    try:
        if not prefix_cache.has_plain_kv_cache(model, longest):
            return False
    except ForwardErrors:  # an architecture that does not have the usual cache, such as BLT
        return False
    tested = _originals.get(model, model)
    if tested not in _cached:
        _cached[tested] = _is_accepted(model, _cache_error)
    return _cached[tested]


def can_pad(model: PreTrainedModel, longest: int) -> bool:
    """Return True if rows of up to ``longest`` tokens can be padded without changing results."""
    lengths = choose_check_lengths(model.config.get_text_config(), longest)
    found = _padded.setdefault(_originals.get(model, model), {})
    if lengths not in found:
        found[lengths] = _is_accepted(
            model, lambda model: max_logprob_difference(model, packed=False, lengths=lengths)
        )
    return found[lengths]


def _is_accepted(model: PreTrainedModel, error_of: Callable[[PreTrainedModel], float]) -> bool:
    try:
        error = error_of(model)
    except torch.OutOfMemoryError:
        raise
    except (prefix_attention.UnsupportedModel, *ForwardErrors):
        return False
    return bool(error <= TOLERANCE_NATS.get(model.dtype, TOLERANCE_NATS[torch.bfloat16]))


@torch.no_grad()
def _cache_error(model: PreTrainedModel) -> float:
    """Return the largest error in nats of a log-probability computed with prefix and cache."""
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(0)
    total = PREFIX_TOKENS + sum(ROW_TOKENS) + len(ROW_TOKENS) * DECODED_TOKENS
    ids = torch.randint(vocabulary, (total,), generator=generator).tolist()
    common, rest = ids[:PREFIX_TOKENS], ids[PREFIX_TOKENS:]
    rows = []
    for length in ROW_TOKENS:
        rows.append(rest[: length + DECODED_TOKENS])
        rest = rest[length + DECODED_TOKENS :]
    expected = [_logprobs(model, common + row) for row in rows]
    prefix = prefix_cache.compute_prefix(model, common)
    if len(prefix.keys) != model.config.get_text_config().num_hidden_layers:
        raise prefix_attention.UnsupportedModel("some layers read the keys of another layer")
    return max(
        _decoding_error(model, prefix, rows, expected),
        _scoring_error(model, prefix, rows, expected),
    )


def _logprobs(model: PreTrainedModel, ids: list[int]) -> Tensor:
    """Return the log-probabilities after the prefix from the model's own forward pass."""
    ids_1T = torch.tensor([ids], device=model.device)
    logits: Tensor = model(input_ids=ids_1T, use_cache=False).logits
    return logits[0, PREFIX_TOKENS:].float().log_softmax(-1)


def _decoding_error(
    model: PreTrainedModel, prefix: Prefix, rows: list[list[int]], expected: list[Tensor]
) -> float:
    cache = DecodingCache(prefix)
    prompts = [row[:-DECODED_TOKENS] for row in rows]
    with prefix_attention.use_cached_attention(model, prefix):
        found = [prefill(model, prompts, cache)]
        for step in range(DECODED_TOKENS):
            tokens = [row[len(row) - DECODED_TOKENS + step] for row in rows]
            tokens_B = torch.tensor(tokens, device=model.device)
            found.append(decode_next(model, tokens_B, cache))
    logp_NBV = torch.stack(found).float().log_softmax(-1)
    return max(
        float((logp_NBV[:, b] - logp_TV[-DECODED_TOKENS - 1 :]).abs().max())
        for b, logp_TV in enumerate(expected)
    )


def _scoring_error(
    model: PreTrainedModel, prefix: Prefix, rows: list[list[int]], expected: list[Tensor]
) -> float:
    examples = [Example(row, [True] * len(row)) for row in rows]
    batch = collate(examples, range(len(rows)), packed=False)
    batch = replace(batch, positions_BT=batch.positions_BT + PREFIX_TOKENS).to(model.device)
    head = get_lm_head(model)
    with prefix_attention.use_cached_attention(model, prefix):
        logp_N = head.logprobs(hidden_at_targets(model, batch), batch)
    alone = [
        logp_TV[:-1].gather(1, torch.tensor(row[1:], device=model.device)[:, None])[:, 0]
        for row, logp_TV in zip(rows, expected, strict=True)
    ]
    return float((logp_N - torch.cat(alone)).abs().max())
