"""Refuse a run if the number of overlong training rows exceeds what the technique may skip.

Without this check, a run would only fail after loading the weights and measuring the baselines. For
speed, the check tokenizes the longest rows first, and stops when enough of them are too long. It
does nothing if the model's tokenizer is not on this machine yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tunesmith.contracts import Finding, SkippedRow
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record, Text, UnpairedPreference, last_exchange
from tunesmith.text import format_count
from tunesmith_data.text import content_key
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.models.model_folder import read_context_length
from tunesmith_torch.options.policy import PolicyOptions
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.options.stages import list_stages
from tunesmith_torch.options.training import SupervisedOptions, TrainingOptions

if TYPE_CHECKING:
    from tunesmith_torch.data.templates import Template

MAX_TOTAL_CHARACTERS = 8_000_000
"""Maximum amount of text to tokenize, which takes some seconds of CPU time."""
PAIRS = Preference | UnpairedPreference
TEMPLATE_ERRORS = (DataError, EnvironmentProblem, UsageError)
"""Errors of a tokenizer or a row that other checks, or loading the model, will report."""


def review(plan: Plan, train: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error for each stage with more overlong rows than it may skip."""
    # The model named in `from` has its own tokenizer and context length.
    stages = {
        where: options
        for where, options in list_stages(plan.technique.config)
        if options.initial_model is None
    }
    context = read_context_length(plan.found_model.config) or math.inf
    sample = sample_if_large(train)
    for where, options in stages.items():
        rows = rows_of_stage(options, sample)
        allowed = options.max_skipped * len(rows)
        if len(sample) < len(train):
            allowed += 4 * math.sqrt(allowed) + 1  # four standard deviations: this is a sample
        limit = int(min(options.max_length, context))
        if isinstance(options, PolicyOptions):  # leaves room for a completion
            limit -= options.generation.max_new_tokens
        found = _find_long_rows(options, rows, limit, math.floor(allowed) + 1, plan)
        if len(found) > allowed:
            yield _describe(found, where, options, len(rows), limit, context)


def rows_of_stage(options: TrainingOptions, train: Sequence[Record]) -> Sequence[Record]:
    """Return the rows that a stage trains on: pairs, demonstrations, or one row per prompt."""
    if isinstance(options, PolicyOptions):
        return list({last_exchange(record)[0]: record for record in train}.values())
    pairs = [record for record in train if isinstance(record, PAIRS)]
    if isinstance(options, PairOptions):
        return pairs
    is_mixed = len(pairs) < len(train)
    return [r for r in train if not isinstance(r, PAIRS)] if is_mixed else pairs


def _describe(
    found: Sequence[SkippedRow],
    where: str,
    options: TrainingOptions,
    rows: int,
    limit: int,
    context: float,
) -> Finding:
    """Build the error for rows with more than ``limit`` tokens."""
    from tunesmith_torch.training.skipped_rows import describe_remedy

    is_context, key = context < options.max_length, f"{where}.max_length"
    cause = "the model's context" if is_context else key
    remedy = describe_remedy(int(min(options.max_length, context)), options.max_length)
    remedy = remedy.replace("technique.max_length", key)
    return Finding(
        level="error",
        where="model.base" if is_context else key,
        message=f"at least {format_count(len(found), 'row')} of {rows:,} cannot be learned from, "
        f"being longer than {limit:,} tokens ({cause}); this is more than "
        f"max_skipped = {options.max_skipped:g} allows",
        hint=f"{remedy}, or raise {where}.max_skipped to train without them",
        count=len(found),
        examples=tuple(
            f"{row.where} has {row.detail.partition(' tokens')[0]} tokens" for row in found[:3]
        ),
    )


def open_template(plan: Plan, options: TrainingOptions) -> Template | None:
    """Return the model's chat template and tokenizer, or None if they cannot be loaded."""
    folder = plan.found_model.tokenizer()
    if folder is None:
        return None
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import load_tokenizer

    with suppress(*TEMPLATE_ERRORS):
        return Template.from_options(load_tokenizer(folder), options)
    return None


def _find_long_rows(
    options: TrainingOptions,
    rows: Sequence[Record],
    limit: int,
    wanted: int,
    plan: Plan,
) -> list[SkippedRow]:
    """Return up to ``wanted`` rows with more than ``limit`` tokens, or [] if that is unknown."""
    # Training splits plain texts into rows that fit, so they cannot be too long.
    sizes = {i: _count_characters(r) for i, r in enumerate(rows) if not isinstance(r, Text)}
    longest = sorted(sizes, key=lambda index: -sizes[index])
    if len(longest) < wanted or (template := open_template(plan, options)) is None:
        return []
    found: list[SkippedRow] = []
    characters = start = 0
    try:
        while len(found) < wanted:
            chosen = longest[start : start + wanted - len(found)]
            characters += sum(sizes[index] for index in chosen)
            if not chosen or characters > MAX_TOTAL_CHARACTERS:
                break
            long = _list_too_long(options, [rows[index] for index in chosen], template, limit)
            if not long:
                break  # the remaining rows have even fewer characters
            found += long
            start += len(chosen)
    except TEMPLATE_ERRORS:
        return []
    return found


def _list_too_long(
    options: TrainingOptions, rows: Sequence[Record], template: Template, limit: int
) -> Sequence[SkippedRow]:
    """Return the rows that a stage would skip because they are too long."""
    if isinstance(options, SupervisedOptions):
        from tunesmith_torch.data.tokenized_records import TOO_LONG

        tokenized = template.tokenize_records(
            rows, limit, truncate_prompts=options.truncate_prompts
        )
        return [row for row in tokenized.skipped if row.cause == TOO_LONG]
    if isinstance(options, PairOptions):
        from tunesmith_torch.prefix.group_store import build_group_store

        return build_group_store(rows, template, limit).skipped
    if isinstance(options, PolicyOptions):
        from tunesmith_torch.rlhf.policy_task import select_fitting_prompts

        return select_fitting_prompts(rows, template, limit)[1]
    return []


def _count_characters(record: Record) -> int:
    """Return the approximate number of characters in a row's longest sequence."""
    whole = len(content_key(record))
    if isinstance(record, Preference):
        return whole - min(len(record.chosen), len(record.rejected))
    return whole
