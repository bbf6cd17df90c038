"""Find training rows that are too long, where they are more than the technique leaves out.

A held-out row whose prompt fills the model's context ends an evaluation, so one is enough.

Training counts them after it has read the weights, and after the rivals have been measured. Only
the longest rows are tokenized here: as many as must be too long for the run to be refused. Of a
model whose tokenizer is not on this machine nothing is known yet.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tunesmith.contracts import Finding, LeftOut
from tunesmith.errors import DataError, EnvironmentProblem, UsageError
from tunesmith.plan import Plan
from tunesmith.records import Record, Text, last_exchange
from tunesmith.text import format_count
from tunesmith_data.text import content_key
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.options.training import SupervisedOptions

MOST_CHARACTERS = 8_000_000
"""Text that is tokenized at most: some seconds of CPU time."""
UNLIMITED = 1 << 60


def review(plan: Plan, train: Sequence[Record], heldout: Sequence[Record]) -> Iterator[Finding]:
    """Yield an error if more rows are too long than the technique leaves out, or can be asked."""
    options = plan.technique.config
    # A model that `from` names has a tokenizer and a context of its own.
    if not isinstance(options, SupervisedOptions) or options.initial_model is not None:
        return
    yield from _review_prompts(plan, options, heldout)
    rows = sample_if_large(train)
    allowed = options.max_left_out * len(rows)
    if len(rows) < len(train):
        allowed += 4 * math.sqrt(allowed) + 1  # four standard deviations of a sample
    context = find_context_length(plan.found_model.config)
    limit = min(options.max_length, context)
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


def _review_prompts(
    plan: Plan, options: SupervisedOptions, heldout: Sequence[Record]
) -> Iterator[Finding]:
    """Yield an error if the longest held-out prompt leaves no room for an answer."""
    context = find_context_length(plan.found_model.config)
    asked = [record for record in sample_if_large(heldout) if not isinstance(record, Text)]
    if not asked or context == UNLIMITED or (folder := plan.found_model.tokenizer()) is None:
        return
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import load_tokenizer

    longest = max(asked, key=lambda record: len(content_key(record)))
    try:
        template = Template.from_options(load_tokenizer(folder), options)
        (prompt,) = template.encode_prompts([last_exchange(longest)[0]])
    except (DataError, EnvironmentProblem, UsageError):
        return
    if len(prompt) >= context:
        yield Finding(
            level="error",
            where=longest.source,
            message=f"a held-out row has a prompt of {len(prompt):,} tokens, and the model's "
            f"context is {context:,}: it cannot be evaluated",
            hint="shorten or remove this row and others like it, or choose a base model with a "
            "longer context",
            count=1,
        )


def find_context_length(config: Mapping[str, Any]) -> int:
    """Return the largest number of tokens that the model supports, by its ``config.json``."""
    text = config.get("text_config")
    table = text if isinstance(text, Mapping) else config
    for name in ("max_position_embeddings", "n_positions"):
        length = table.get(name)
        if isinstance(length, int) and length > 0:
            return length
    return UNLIMITED


def _find_long_rows(
    plan: Plan, options: SupervisedOptions, rows: Sequence[Record], limit: int, wanted: int
) -> list[LeftOut]:
    """Return up to ``wanted`` of the rows with more than ``limit`` tokens, the longest first."""
    # A text is split into rows that fit.
    sizes = {i: len(content_key(r)) for i, r in enumerate(rows) if not isinstance(r, Text)}
    longest = sorted(sizes, key=lambda index: -sizes[index])
    if len(longest) < wanted or (folder := plan.found_model.tokenizer()) is None:
        return []
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.data.tokenized_records import TOO_LONG
    from tunesmith_torch.models.loading import load_tokenizer

    found: list[LeftOut] = []
    characters = start = 0
    try:
        template = Template.from_options(load_tokenizer(folder), options)
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
    except (DataError, EnvironmentProblem, UsageError):
        return []  # other checks, and loading, report what is wrong with the model or a row
    return found
