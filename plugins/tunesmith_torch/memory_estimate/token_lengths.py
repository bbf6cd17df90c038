"""Exact row lengths: tokenize and lay out the rows as training does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from tunesmith.estimates import EstimateRequest
from tunesmith.records import Preference, Record, UnpairedPreference, last_exchange
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.data.packing import Example, pack, padded_batches
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenization_cache import tokenize_cached
from tunesmith_torch.memory_estimate.workload import (
    AUTO_BATCH_SIZE,
    AUTO_MICRO_BATCH_TOKENS,
    SINGLE_COMPLETION,
    Grouping,
    RowLengths,
    Workload,
    build_workload,
    repeat_rows,
)
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import SupervisedOptions, TrainingOptions
from tunesmith_torch.prefix.common_prefix import common_prefix_length
from tunesmith_torch.prefix.completion_groups import tokenize_preferences
from tunesmith_torch.runtime.distributed import split_evenly

MAX_STEPS_LAID_OUT = 2000
"""Steps whose micro-batches are laid out; further steps hardly bring a larger one."""


def exact_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    context_length: int,
    grouping: Grouping = SINGLE_COMPLETION,
) -> Workload | None:
    """Return the workload as training will find it, or None without a tokenizer or rows."""
    if request.tokenizer is None or request.assumed is not None or not request.train:
        return None
    template = Template.from_options(load_tokenizer(request.tokenizer), options)
    limit = min(options.max_length, context_length)
    train, test = sample_if_large(request.train), sample_if_large(request.test)
    sample, skipped, common_prefix_tokens = _tokenize_rows(
        template, train, limit, grouping, options
    )
    if not sample:
        return None
    rows = repeat_rows(sample, len(request.train) / len(train))
    kinds = Preference | UnpairedPreference
    preferences = [record for record in test if isinstance(record, kinds)]
    others = [record for record in test if not isinstance(record, kinds)]
    examples = template.tokenize_records(others, context_length).examples
    notes = [f"{skipped} rows do not fit and are skipped"] if skipped else []
    if len(train) < len(request.train):
        notes = [f"lengths are those of {len(train):,} rows of {len(request.train):,}"]
    workload = build_workload(
        options,
        rows,
        request.seed,
        grouping,
        processes=request.processes,
        test=[
            *map(_example_lengths, examples),
            *_group_lengths(template, preferences),
        ],
        notes=tuple(notes),
    )
    workload = replace(workload, common_prefix_tokens=common_prefix_tokens)
    return _with_actual_micro_batches(workload, rows, options, request)


def _tokenize_rows(
    template: Template,
    records: Sequence[Record],
    limit: int,
    grouping: Grouping,
    options: TrainingOptions,
) -> tuple[list[RowLengths], int, int]:
    """Return row lengths, the number of records that do not fit, and the common prefix's length."""
    if grouping.sampled_completions is not None:
        prompts = list(dict.fromkeys(last_exchange(record)[0] for record in records))
        rows = [grouping.row_lengths(len(ids), ()) for ids in template.encode_prompts(prompts)]
    elif grouping.both_completions:
        rows = [grouping.row_lengths(*group) for group in _group_lengths(template, records)]
    else:
        truncate_prompts = isinstance(options, SupervisedOptions) and options.truncate_prompts
        tokenized = tokenize_cached(template, records, limit, truncate_prompts=truncate_prompts)
        rows = [_example_lengths(example) for example in tokenized.examples]
        # Padded rows are computed separately, so only packed ones can hold a common prefix once.
        prefix = common_prefix_length(tokenized.examples) if options.packing else 0
        return rows, len(tokenized.skipped), prefix
    fitting = [row for row in rows if row.prompt + max(row.completions) <= limit]
    return fitting, len(rows) - len(fitting), 0


def _example_lengths(example: Example) -> RowLengths:
    trained = int(np.count_nonzero(example.trained))
    return RowLengths(len(example) - trained, (trained,))


def _group_lengths(template: Template, records: Sequence[Record]) -> list[RowLengths]:
    groups = tokenize_preferences(records, template)
    return [RowLengths(len(group.prompt), tuple(map(len, group.completions))) for group in groups]


def _with_actual_micro_batches(
    workload: Workload,
    rows: Sequence[RowLengths],
    options: TrainingOptions,
    request: EstimateRequest,
) -> Workload:
    """Return the workload with the largest micro-batch that occurs, not the largest possible.

    With several processes, it is the largest of any of them.
    """
    batch_size = options.batch_size or AUTO_BATCH_SIZE
    budget = options.micro_batch_tokens or AUTO_MICRO_BATCH_TOKENS
    order = BatchOrder(len(rows), batch_size, options.epochs, request.seed, options.max_steps)
    # Packing counts the common prefix once for each micro-batch, so rows are split without it.
    own_tokens = np.array(workload.row_tokens) - workload.common_prefix_tokens
    split = pack if options.packing else padded_batches
    largest: tuple[int, tuple[RowLengths, ...]] = (0, ())
    accumulates_gradients = False
    own_rows = (
        [batch[i] for i in share]
        for _, batch in islice(order.batches(), MAX_STEPS_LAID_OUT)
        for share in split_evenly([workload.row_tokens[i] for i in batch], request.processes)
        if share
    )
    for row_indices in own_rows:
        batch_tokens = own_tokens[row_indices]
        micro_batches = split(
            batch_tokens, max(budget - workload.common_prefix_tokens, int(batch_tokens.max()))
        )
        accumulates_gradients = accumulates_gradients or len(micro_batches) > 1
        for members in micro_batches:
            sizes = batch_tokens[members].tolist()
            tokens = sum(sizes) if options.packing else max(sizes) * len(sizes)
            if tokens > largest[0]:
                micro_batch = tuple(rows[row_indices[i]] for i in members)
                if not options.packing:
                    widest = max(micro_batch, key=workload.grouping.token_count)
                    micro_batch = (widest,) * len(micro_batch)
                largest = tokens, micro_batch
    if order.steps > MAX_STEPS_LAID_OUT:  # a later step may have the largest possible one
        return replace(
            workload,
            accumulates_gradients=workload.accumulates_gradients or accumulates_gradients,
        )
    return replace(workload, micro_batch=largest[1], accumulates_gradients=accumulates_gradients)
