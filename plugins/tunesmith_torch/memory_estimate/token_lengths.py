"""Rows in tokens, exactly: tokenised as training does, laid out as training does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

import numpy as np

from tunesmith.contracts import EstimateRequest
from tunesmith.records import Preference, Record, last_exchange
from tunesmith_torch.data.packing import Example, pack, unpacked
from tunesmith_torch.data.templates import Template, template_override
from tunesmith_torch.memory_estimate.workload import (
    ALONE,
    FEW_ROWS,
    FEW_TOKENS,
    Grouping,
    Row,
    Workload,
    laid_out,
)
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.prefix.common_prefix import opening_of
from tunesmith_torch.prefix.completion_groups import groups_of

LAID_OUT = 2000
"""Steps whose micro-batches are looked at; more show nothing new."""


def exact(
    options: FitOptions, request: EstimateRequest, context: int, grouping: Grouping = ALONE
) -> Workload | None:
    """The workload as training will find it, or None without a tokenizer or without rows."""
    if request.tokenizer is None or request.assumed is not None or not request.train:
        return None
    template = Template.of(load_tokenizer(request.tokenizer), template_override(options))
    limit = min(options.max_length, context)
    rows, left_out, opening = _rows(template, request.train, limit, grouping, options)
    if not rows:
        return None
    pairs = [record for record in request.heldout if isinstance(record, Preference)]
    others = [record for record in request.heldout if not isinstance(record, Preference)]
    held = template.examples_or_left_out(others, context)
    notes = [f"{left_out} rows do not fit and are left out"] if left_out else []
    load = laid_out(
        options,
        rows,
        request.seed,
        grouping,
        heldout=[*map(_row, held.examples), *_pairs(template, pairs)],
        notes=tuple(notes),
    )
    return _seen(replace(load, opening=opening), rows, options, request.seed)


def _rows(
    template: Template,
    records: Sequence[Record],
    limit: int,
    grouping: Grouping,
    options: FitOptions,
) -> tuple[list[Row], int, int]:
    """What is computed together, how many records do not fit, and how long the rows' opening is."""
    if grouping.drawn is not None:
        asked = list(dict.fromkeys(last_exchange(record)[0] for record in records))
        found = [grouping.row(len(ids), ()) for ids in template.prompts_ids(asked)]
    elif grouping.both:
        found = [grouping.row(*row) for row in _pairs(template, records)]
    else:
        made = template.examples_or_left_out(
            records, limit, truncate_prompts=options.truncate_prompts
        )
        opening = opening_of(made.examples) if options.packing else 0
        return [_row(example) for example in made.examples], len(made.left_out), opening
    fitting = [row for row in found if row.prompt + max(row.answers) <= limit]
    return fitting, len(found) - len(fitting), 0


def _row(example: Example) -> Row:
    trained = int(np.count_nonzero(example.trained))
    return Row(len(example) - trained, (trained,))


def _pairs(template: Template, records: Sequence[Record]) -> list[Row]:
    groups = groups_of(records, template)
    return [Row(len(group.prompt), tuple(map(len, group.answers))) for group in groups]


def _seen(load: Workload, rows: Sequence[Row], options: FitOptions, seed: int) -> Workload:
    """With the largest micro-batch that really comes, in place of the largest possible."""
    batch, most = options.batch_size or FEW_ROWS, options.micro_batch_tokens or FEW_TOKENS
    order = Order(len(rows), batch, options.epochs, seed, options.max_steps)
    lengths = np.array(load.lengths) - load.opening
    share = pack if options.packing else unpacked
    largest: tuple[int, tuple[Row, ...]] = (0, ())
    several = False
    for _, numbers in islice(order.batches(), LAID_OUT):
        here = lengths[numbers]
        bins = share(here, max(most - load.opening, int(here.max())))
        several = several or len(bins) > 1
        for members in bins:
            sizes = here[members].tolist()
            tokens = sum(sizes) if options.packing else max(sizes) * len(sizes)
            if tokens > largest[0]:
                together = tuple(rows[numbers[i]] for i in members)
                widest = max(together, key=load.grouping.size)
                largest = tokens, together if options.packing else (widest,) * len(together)
    if order.steps > LAID_OUT:
        return replace(load, several=load.several or several)
    return replace(load, micro=largest[1], several=several)
