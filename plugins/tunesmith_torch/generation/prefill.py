"""Run the model on the prompts of new rows, and store their keys and values in the cache.

Shapes: B distinct prompts or rows, N rows, T tokens of the longest prompt or of each row, V
vocabulary.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.kv_cache import DecodingCache
from tunesmith_torch.generation.prompt_lookup import PromptLookup
from tunesmith_torch.generation.row_adapters import RowAdapter, use_row_adapters
from tunesmith_torch.generation.sequences import PartialSequence


def prefill(
    model: PreTrainedModel,
    prompts: Sequence[Sequence[int]],
    cache: DecodingCache,
    adapters: Sequence[RowAdapter | None] | None = None,
) -> Tensor:
    """Run the model once on each distinct prompt of new rows, and add the rows to the cache.

    Rows with different ``adapters`` share no prompt.

    Returns:
        The logits after the last token of each row, shape NV.
    """
    prompt_index: dict[tuple[RowAdapter | None, tuple[int, ...]], int] = {}
    prompt_of_row = [
        prompt_index.setdefault((adapter, tuple(prompt)), len(prompt_index))
        for adapter, prompt in zip(adapters or [None] * len(prompts), prompts, strict=True)
    ]
    longest = max(len(prompt) for _, prompt in prompt_index)
    padding = [longest - len(prompt) for _, prompt in prompt_index]
    device = model.device
    # Pad on the left, so that all rows end in the same slot of the cache.
    ids_BT = torch.tensor(
        [[0] * pad + list(prompt) for pad, (_, prompt) in zip(padding, prompt_index, strict=True)],
        device=device,
    )
    padding_B = torch.tensor(padding, device=device)
    position_BT = torch.arange(longest, device=device) - padding_B[:, None]
    prompt_cache = DynamicCache()
    with use_row_adapters([adapter for adapter, _ in prompt_index]):
        logits_BV: Tensor = model(
            input_ids=ids_BT,
            position_ids=cache.prefix_length + position_BT.clamp_(min=0),
            attention_mask=prefix_attention.prefill_mask(
                longest, cache.prefix_length, padding_B if any(padding) else None
            ),
            use_cache=True,
            # A tensor index instead of a number. A number gives a view of the hidden states, and a
            # bf16 head on a CPU takes hundreds of times as long for a view, and gigabytes.
            logits_to_keep=torch.tensor([longest - 1], device=device),
            **{prefix_cache.cache_argument_name(type(model).forward): prompt_cache},
        ).logits[:, -1]
    cache.add_rows(prompt_cache, prompt_of_row, [len(prompt) for prompt in prompts])
    return logits_BV[torch.tensor(prompt_of_row, device=device)]


def decode_rows(
    model: PreTrainedModel,
    rows: Sequence[PartialSequence],
    tokens_B: Tensor,
    cache: DecodingCache,
    limit: int,
) -> Tensor:
    """Append the last token of each row to the cache and return the logits after it, shape BV.

    A row that is alone also computes guesses of its next tokens, at most ``limit``.
    """
    if len(rows) > 1:
        with use_row_adapters([row.adapter for row in rows]):
            return decode_next(model, tokens_B, cache)
    row, ahead = rows[0], cache.ahead
    if ahead and ahead[0][0] == row.ids[-1]:
        cache.end += 1
        return ahead.popleft()[1]
    if row.lookup is None:
        row.lookup = PromptLookup(row.prompt)
    guesses = row.lookup.guess(row.ids, limit, num_wrong=len(ahead))
    ids_1T = torch.tensor([[row.ids[-1], *guesses]], device=tokens_B.device)
    with use_row_adapters([row.adapter]):
        first, *others = _decode(model, ids_1T, cache).unbind(1)
    cache.ahead = deque(zip(guesses, others, strict=True))
    return first


def decode_next(model: PreTrainedModel, tokens_B: Tensor, cache: DecodingCache) -> Tensor:
    """Append one token to each row of the cache and return the logits after it, shape BV."""
    return _decode(model, tokens_B[:, None], cache)[:, 0]


def _decode(model: PreTrainedModel, ids_BT: Tensor, cache: DecodingCache) -> Tensor:
    """Store T tokens per row, append the first, and return the logits after each, shape BTV."""
    name = prefix_cache.cache_argument_name(type(model).forward)
    inputs = {name: cache, **cache.next_inputs(ids_BT.shape[1])}
    logits_BTV: Tensor = model(input_ids=ids_BT, **inputs).logits
    cache.end += 1
    return logits_BTV
