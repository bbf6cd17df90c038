"""Generate completions for many prompts, with continuous batching.

Shapes: B rows, T tokens of the longest new prompt, N rows with new logits, V vocabulary.

Generation spends most of its time reading all weights once per step. So the loop keeps as many rows
in a step as the token budget allows: a finished row leaves at once, and waiting prompts take its
place. The initial tokens that all prompts share are computed and stored once. A prompt that occurs
several times is computed once for the samples that join together. With 5 prompts and room for 3::

    step   |  1  2  3  4  5  6  7
    row 0  |  a  a  a  d  d  d  d     | a ends after 3 tokens, d takes its place
    row 1  |  b  b  b  b  b  b  b     |
    row 2  |  c  c  c  c  e  e  e     | prompts are processed in separate passes ("prefill")

If rotary factors depend on the length of a row, each length class is generated separately. Rows
that may cross a threshold use transformers' own loop
(:mod:`tunesmith_torch.kernels.rotary_lengths`).

Rows do not attend to each other, and each has its own random numbers. A completion therefore does
not depend on the other prompts or on their order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tunesmith_torch.generation import prefix_attention, prefix_cache
from tunesmith_torch.generation.cache_check import can_use_cached_attention
from tunesmith_torch.generation.constraints import TokenConstraint
from tunesmith_torch.generation.kv_cache import DecodingCache
from tunesmith_torch.generation.merged_lora import merged_adapters
from tunesmith_torch.generation.prefill import decode_rows, prefill
from tunesmith_torch.generation.sampling import Sampler
from tunesmith_torch.generation.sequences import (
    GeneratedSequence,
    GenerationSettings,
    PartialSequence,
    append_next_tokens,
)
from tunesmith_torch.generation.transformers_generate import generate_with_transformers
from tunesmith_torch.kernels.rotary_lengths import LengthClasses, length_classes
from tunesmith_torch.options.generation_limits import MAX_ROWS, TOKEN_BUDGET
from tunesmith_torch.runtime.eval_mode import eval_mode

__all__ = ["generate"]

Row = TypeVar("Row", bound=PartialSequence)

MIN_PREFILL_TOKENS, MAX_PADDING_RATIO = 256, 1.1
"""Number of prompt tokens that keep a processor busy, and maximum ratio of padded to prompt tokens.

A pass with fewer prompt tokens accepts any padding.
"""


@torch.inference_mode()
def generate(  # noqa: PLR0913 - independent choices, all but two by keyword
    model: torch.nn.Module,
    prompts_ids: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    end_ids: frozenset[int],
    token_budget: int = TOKEN_BUDGET,
    progress: Callable[[int], None] | None = None,
    sampler: Sampler | None = None,
    constrain: Callable[[], TokenConstraint] | None = None,
    last_prefix: prefix_cache.LastPrefix | None = None,
) -> list[GeneratedSequence]:
    """Continue every prompt by at most ``max_new_tokens`` tokens, or until one of ``end_ids``.

    The model's ``generation_config`` is ignored: without a sampler the most likely token is chosen,
    without penalties. ``constrain`` returns a new constraint for one completion. ``progress``
    receives the number of finished completions. ``last_prefix`` holds the common prefix of an
    earlier call with the same weights.

    Returns:
        The completions in the order of the prompts.

    Raises:
        ValueError: a prompt has no tokens, or ``max_new_tokens`` is below 1.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens: must be at least 1, got {max_new_tokens}")
    if not prompts_ids:
        return []
    if not all(prompts_ids):
        raise ValueError("a prompt needs at least one token")
    rows = [
        PartialSequence(
            index,
            prompt,
            [] if sampler is None else sampler.uniforms(index, max_new_tokens),
            None if constrain is None else constrain(),
        )
        for index, prompt in enumerate(prompts_ids)
    ]
    report, finished = progress or (lambda _: None), 0
    classes = length_classes(model)
    with eval_mode(model):
        for group, length_class in _group_by_class(rows, classes, max_new_tokens):
            settings = GenerationSettings(
                max_new_tokens,
                end_ids,
                max(token_budget, 1),
                sampler,
                partial(_report_sum, report, finished),
                last_prefix or prefix_cache.LastPrefix(),
            )
            _generate_group(model, group, length_class, settings)
            finished += len(group)
    return [row.result(end_ids) for row in rows]


def _report_sum(report: Callable[[int], None], before: int, count: int) -> None:
    report(before + count)


def _group_by_class(
    rows: Sequence[PartialSequence], classes: LengthClasses, max_new_tokens: int
) -> Iterator[tuple[list[PartialSequence], int | None]]:
    """Group rows by their length class, or by None if a row may grow into another class.

    The last generated token does not count, because the model never reads it.
    """
    groups: dict[int | None, list[PartialSequence]] = {}
    for row in rows:
        length = len(row.prompt)
        first, last = (classes.class_of(n) for n in (length, length + max_new_tokens - 1))
        groups.setdefault(first if first == last else None, []).append(row)
    for length_class, members in groups.items():
        yield members, length_class


def _generate_group(
    model: torch.nn.Module,
    rows: Sequence[PartialSequence],
    length_class: int | None,
    settings: GenerationSettings,
) -> None:
    """Generate all rows in place, with transformers' own loop if this one does not support them."""
    longest = max(len(row.prompt) for row in rows) + settings.max_new_tokens
    try:
        if length_class is None:
            raise prefix_attention.UnsupportedModel("its rotary factors change within a row")
        base = prefix_cache.unwrap_model(model)
        if not can_use_cached_attention(base, longest):
            raise prefix_attention.UnsupportedModel("the cache holds more than keys and values")
        with merged_adapters(model, settings.max_new_tokens * len(rows)):
            _decode(base, rows, settings, share_prefix=length_class == 0)
    except prefix_attention.UnsupportedModel:
        generate_with_transformers(model, rows, settings)


def _decode(
    model: PreTrainedModel,
    rows: Sequence[PartialSequence],
    settings: GenerationSettings,
    *,
    share_prefix: bool,
) -> None:
    """Generate all rows in place, longest prompts first and equal prompts together.

    ``share_prefix``: compute a common prefix separately. This requires that the prefix alone is in
    the length class of the rows.
    """
    prompts = [row.prompt for row in rows]
    max_prefix = min(map(len, prompts)) - 1 if share_prefix else 0
    last = settings.last_prefix
    prefix = prefix_cache.compute_common_prefix(model, prompts, max_prefix, last)
    cache = DecodingCache(prefix)
    for row in rows:
        row.prompt = row.prompt[cache.prefix_length :]
    waiting = deque(sorted(rows, key=lambda row: (-len(row.prompt), list(row.prompt), row.index)))
    active = list[PartialSequence]()
    tokens_B = torch.empty(0, dtype=torch.long, device=model.device)
    with prefix_attention.use_cached_attention(model, prefix):
        while waiting or active:
            new_rows = _take_new_rows(waiting, active, settings)
            if new_rows:
                logits_NV = torch.cat(
                    [
                        prefill(model, [row.prompt for row in group], cache)
                        for group in group_by_length(new_rows)
                    ]
                )
                active += new_rows
            else:
                limit = settings.max_new_tokens - len(active[0].ids) - 1
                logits_NV = decode_rows(model, active, tokens_B, cache, limit)
                new_rows, tokens_B = active, tokens_B[:0]
            # After a prefill, tokens_B keeps the last tokens of the earlier rows, and the new rows
            # append theirs. After a decoding step it is empty here, and all rows get a new token.
            tokens_B = torch.cat(
                [tokens_B, append_next_tokens(logits_NV, new_rows, settings.sampler)]
            )
            tokens_B = _remove_finished(active, cache, tokens_B, settings)
            settings.progress(len(rows) - len(waiting) - len(active))


def _take_new_rows(
    waiting: deque[PartialSequence], active: Sequence[PartialSequence], settings: GenerationSettings
) -> list[PartialSequence]:
    """Take the rows that may join now: as many as fit even if all completions reach the limit.

    Rows join in groups instead of one at a time, because each prefill reads all weights.
    """
    longest = max((len(row.prompt) for row in (*active, *list(waiting)[:1])), default=0)
    free_rows = min(settings.token_budget // (longest + settings.max_new_tokens), MAX_ROWS) - len(
        active
    )
    count = min(max(free_rows, 0 if active else 1), len(waiting))
    if count < min(len(active) // 8 + 1, len(waiting)):
        return []
    return [waiting.popleft() for _ in range(count)]


def group_by_length(new_rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """Split new rows, longest first, into passes with little padding; equal prompts share one."""
    start, prompt_tokens, distinct = 0, 0, set[tuple[int, ...]]()
    for index, row in enumerate(new_rows):
        prompt = tuple(row.prompt)
        if prompt in distinct:
            continue
        padded_tokens = len(new_rows[start].prompt) * (len(distinct) + 1)
        if (
            prompt_tokens >= MIN_PREFILL_TOKENS
            and padded_tokens > (prompt_tokens + len(prompt)) * MAX_PADDING_RATIO
        ):
            yield new_rows[start:index]
            start, prompt_tokens, distinct = index, 0, set()
        distinct.add(prompt)
        prompt_tokens += len(prompt)
    yield new_rows[start:]


def _remove_finished(
    active: list[PartialSequence],
    cache: DecodingCache,
    tokens_B: Tensor,
    settings: GenerationSettings,
) -> Tensor:
    """Remove finished rows and return the last tokens of the others, in their new order."""
    finished = [index for index, row in enumerate(active) if settings.is_finished(row)]
    return remove_rows(active, cache, tokens_B, finished)


def remove_rows(
    active: list[Row], cache: DecodingCache, tokens_B: Tensor, indices: Sequence[int]
) -> Tensor:
    """Remove rows and return the last tokens of the others, in their new order."""
    if not indices:
        return tokens_B
    free_indices, moved_indices = cache.remove_rows(indices)
    for free, moved in zip(free_indices, moved_indices, strict=True):
        active[free] = active[moved]
    tokens_B[free_indices] = tokens_B[moved_indices]
    del active[cache.num_rows :]
    return tokens_B[: cache.num_rows]
