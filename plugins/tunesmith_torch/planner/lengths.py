"""Rows in tokens, exactly: tokenised as training does, laid out as training does."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np

from tunesmith.contracts import EstimateRequest
from tunesmith_torch.finetune import template_override
from tunesmith_torch.load import load_tokenizer
from tunesmith_torch.options import FitOptions
from tunesmith_torch.packing import pack, unpacked
from tunesmith_torch.planner.workload import FEW_ROWS, FEW_TOKENS, Workload, laid_out
from tunesmith_torch.schedule import Order
from tunesmith_torch.templates import Template

LAID_OUT = 2000
"""Steps whose micro-batches are looked at; more show nothing new."""


def exact(options: FitOptions, request: EstimateRequest, context: int) -> Workload | None:
    """The workload as training will find it, or None without a tokenizer or without rows."""
    if request.tokenizer is None or request.assumed is not None or not request.train:
        return None
    template = Template.of(load_tokenizer(request.tokenizer), template_override(options))
    limit = min(options.max_tokens, context)
    made = template.examples_or_left_out(request.train, limit, cut_prompts=options.cut_prompts)
    if not made.examples:
        return None
    held = template.examples_or_left_out(request.heldout, context)
    lengths = [len(example) for example in made.examples]
    notes = []
    if made.left_out:
        notes.append(f"{len(made.left_out)} rows do not fit and are left out")
    load = laid_out(
        options,
        lengths,
        made.trained_tokens / made.tokens,
        request.seed,
        heldout=[len(example) for example in held.examples],
        notes=tuple(notes),
    )
    return _seen(load, options, request.seed)


def _seen(load: Workload, options: FitOptions, seed: int) -> Workload:
    """With the largest micro-batch that really comes, in place of the largest possible."""
    batch, most = options.batch or FEW_ROWS, options.micro_tokens or FEW_TOKENS
    order = Order(len(load.lengths), batch, options.epochs, seed, options.max_steps)
    lengths = np.array(load.lengths)
    share = pack if options.packing else unpacked
    largest: tuple[int, list[int]] = (0, [])
    several = False
    for _, rows in islice(order.batches(), LAID_OUT):
        here = lengths[rows]
        bins = share(here, max(most, int(here.max())))
        several = several or len(bins) > 1
        for members in bins:
            sizes = here[members].tolist()
            tokens = sum(sizes) if options.packing else max(sizes) * len(sizes)
            if tokens > largest[0]:
                largest = tokens, sizes if options.packing else [max(sizes)] * len(sizes)
    if order.steps > LAID_OUT:
        return replace(load, several=load.several or several)
    return replace(load, micro=tuple(largest[1]), several=several)
