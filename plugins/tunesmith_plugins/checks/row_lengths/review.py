"""Find training rows that are too long, where they are more than the technique leaves out.

Training counts them after it has read the weights, and after the rivals have been measured. Only
the longest rows are tokenized here: as many as must be too long for the run to be refused. Of a
model whose tokenizer is not on this machine nothing is known yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tunesmith.contracts import Finding, LeftOut
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Record, Text
from tunesmith.text import format_count
from tunesmith_data.text import content_key
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.models.model_folder import read_context_length
from tunesmith_torch.options.training import SupervisedOptions, TrainingOptions

if TYPE_CHECKING:
    from tunesmith_torch.data.templates import Template

MOST_CHARACTERS = 8_000_000
"""Text that is tokenized at most: some seconds of CPU time."""
UNUSABLE = (DataError, EnvironmentProblem, UsageError)
"""Errors of a tokenizer or a row, which other checks, and loading, report."""


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if more rows are too long than the technique leaves out."""
    options = plan.technique.config
    # A model that `from` names has a tokenizer and a context of its own.
    if not isinstance(options, SupervisedOptions) or options.initial_model is not None:
        return
    context = read_context_length(plan.found_model.config) or math.inf
    rows = sample_if_large(train)
    allowed = options.max_left_out * len(rows)
    if len(rows) < len(train):
        allowed += 4 * math.sqrt(allowed) + 1  # four standard deviations of a sample
    limit = int(min(options.max_length, context))
    found = _find_long_rows(plan, options, rows, limit, math.floor(allowed) + 1)
    if len(found) <= allowed:
        return
    from tunesmith_torch.training.left_out_rows import describe_remedy

    is_context = context < options.max_length
    cause = "the model's context" if is_context else "technique.max_length"
    yield Finding(
        level="error",
        where="model.base" if is_context else "technique.max_length",
        message=f"at least {format_count(len(found), 'row')} of {len(rows):,} cannot be learned "
        f"from, more than max_left_out = {options.max_left_out:g} allows: longer than {limit:,} "
        f"tokens, {cause}",
        hint=f"{describe_remedy(limit, options.max_length)}, or raise technique.max_left_out to "
        "train without them",
        count=len(found),
        examples=tuple(
            f"{row.where} has {row.detail.partition(' tokens')[0]} tokens" for row in found[:3]
        ),
    )


def open_template(plan: Plan, options: TrainingOptions) -> Template | None:
    """Return the model's template and tokenizer; None if they are not here, or cannot be used."""
    folder = plan.found_model.tokenizer()
    if folder is None:
        return None
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import load_tokenizer

    with suppress(*UNUSABLE):
        return Template.from_options(load_tokenizer(folder), options)
    return None


def _find_long_rows(
    plan: Plan,
    options: SupervisedOptions,
    rows: Sequence[Record],
    limit: int,
    wanted: int,
) -> list[LeftOut]:
    """Return up to ``wanted`` of the rows with more than ``limit`` tokens, the longest first."""
    # A text is split into rows that fit.
    sizes = {i: len(content_key(r)) for i, r in enumerate(rows) if not isinstance(r, Text)}
    longest = sorted(sizes, key=lambda index: -sizes[index])
    if len(longest) < wanted or (template := open_template(plan, options)) is None:
        return []
    from tunesmith_torch.data.tokenized_records import TOO_LONG

    found: list[LeftOut] = []
    characters = start = 0
    try:
        while len(found) < wanted:
            chosen = longest[start : start + wanted - len(found)]
            characters += sum(sizes[index] for index in chosen)
            if not chosen or characters > MOST_CHARACTERS:
                break
            tokenized = template.tokenize_records(
                [rows[index] for index in chosen], limit, truncate_prompts=options.truncate_prompts
            )
            long = {row.where: row for row in tokenized.left_out if row.cause == TOO_LONG}
            if not long:
                break  # the others have fewer characters
            found += long.values()
            start += len(chosen)
    except UNUSABLE:
        return []
    return found
