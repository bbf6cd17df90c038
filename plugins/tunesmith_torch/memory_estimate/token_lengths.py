"""Exact row lengths: tokenize rows and divide them into micro-batches as training does."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from tunesmith.estimates import EstimateRequest
from tunesmith.records import Preference, Record, UnpairedPreference, last_exchange
from tunesmith.text import format_count
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
"""Number of steps whose micro-batches are computed; later steps rarely have a larger one."""


def exact_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    context_length: int,
    grouping: Grouping = SINGLE_COMPLETION,
    *,
    convert_template: Callable[[Template], Template] | None = None,
) -> Workload | None:
    """Return the exact workload of training, or None without a tokenizer or usable rows."""
    if request.tokenizer is None or request.assumed is not None or not request.train:
        return None
    template = Template.from_options(load_tokenizer(request.tokenizer), options)
    if convert_template is not None:
        template = convert_template(template)
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
    notes = [f"{format_count(skipped, 'row')} skipped: too long or not trainable"] * bool(skipped)
    if len(train) < len(request.train):
        notes = [f"row lengths come from a sample: {len(train):,} of {len(request.train):,} rows"]
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
    """Return row lengths, the number of skipped records, and the length of the common prefix."""
    if grouping.sampled_completions is not None:
        prompts = list(dict.fromkeys(last_exchange(record)[0] for record in records))
        rows = [grouping.row_lengths(len(ids), ()) for ids in template.encode_prompts(prompts)]
    elif grouping.both_completions:
        rows = [grouping.row_lengths(*group) for group in _group_lengths(template, records)]
    else:
        truncate_prompts = isinstance(options, SupervisedOptions) and options.truncate_prompts
        tokenized = tokenize_cached(template, records, limit, truncate_prompts=truncate_prompts)
        rows = [_example_lengths(example) for example in tokenized.examples]
        # Only packed rows can store a common prefix once; padded rows are computed separately.
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

    In a long run, where only the first steps are computed, the largest possible one is kept.
    Row lengths go through the same steps as rows in training::

        order of the rows -> batch of a step -> rows of one process -> its micro-batches
    """
    batch_size = options.batch_size or AUTO_BATCH_SIZE
    order = BatchOrder(len(rows), batch_size, options.epochs, request.seed, options.max_steps)
    largest: list[int] = []
    largest_tokens, accumulates_gradients = 0, False
    for own_rows in _rows_of_each_process(order, workload.row_tokens, request.processes):
        micro_batches = _divide(own_rows, workload, options)
        accumulates_gradients = accumulates_gradients or len(micro_batches) > 1
        for tokens, members in micro_batches:
            if tokens > largest_tokens:
                largest_tokens, largest = tokens, members
    if (
        order.steps > MAX_STEPS_LAID_OUT
    ):  # keep the largest possible one, as a later step may have it
        return replace(
            workload,
            accumulates_gradients=workload.accumulates_gradients or accumulates_gradients,
        )
    micro_batch = tuple(rows[row] for row in largest)
    if micro_batch and not options.packing:  # padding makes all rows as long as the longest
        micro_batch = (max(micro_batch, key=workload.grouping.token_count),) * len(micro_batch)
    return replace(workload, micro_batch=micro_batch, accumulates_gradients=accumulates_gradients)


def _rows_of_each_process(
    order: BatchOrder, row_tokens: Sequence[int], processes: int
) -> Iterator[list[int]]:
    """Yield the rows that a process gets in a step, for every process and the first steps."""
    for _, batch in islice(order.batches(), MAX_STEPS_LAID_OUT):
        for share in split_evenly([row_tokens[row] for row in batch], processes):
            if share:
                yield [batch[i] for i in share]


def _divide(
    rows: Sequence[int], workload: Workload, options: TrainingOptions
) -> list[tuple[int, list[int]]]:
    """Return the micro-batches of these rows: the tokens that each computes, and its rows.

    A packed micro-batch stores the common prefix once, so the prefix is taken off the budget and
    off each row.
    """
    prefix = workload.common_prefix_tokens
    tokens = np.array([workload.row_tokens[row] - prefix for row in rows])
    # A row that is longer than the budget becomes its own micro-batch.
    budget = (options.micro_batch_tokens or AUTO_MICRO_BATCH_TOKENS) - prefix
    split = pack if options.packing else padded_batches
    divided = []
    for members in split(tokens, max(budget, int(tokens.max()))):
        sizes = tokens[members].tolist()
        computed = sum(sizes) if options.packing else max(sizes) * len(sizes)
        divided.append((computed, [rows[i] for i in members]))
    return divided
