"""Tokenize rows as the model sees them, and mark the tokens that are trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from tunesmith.errors import UsageError
from tunesmith.plan import Plan
from tunesmith.records import Preference, Record

if TYPE_CHECKING:
    from tunesmith_torch.data.packing import Example

NO_LIMIT = 1 << 30
"""Token limit for an example if the technique has no such option."""


@dataclass(frozen=True)
class TokenizedRow:
    """The tokens of an example, as runs of text that are either trained on or not."""

    runs: Sequence[tuple[str, bool]]
    tokens: int
    trained_tokens: int


def create_tokenize(plan: Plan | None) -> Callable[[Record], list[TokenizedRow]]:
    """Return a function that tokenizes a record into examples with the plan's tokenizer.

    The function raises a DataError if a record yields no examples.

    Raises:
        UsageError: there is no run file, so the model is unknown.
    """
    if plan is None:
        raise UsageError(
            "--tokens: a data file does not specify a tokenizer, so this option needs a run file",
            hint="write a run file with `tunesmith init --data FILE`",
        )
    from tunesmith_torch.data.message_fields import unpaired_to_chat
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import config_context_length, load_config, load_tokenizer
    from tunesmith_torch.options.training import TrainingOptions

    options = plan.technique.config
    folder = plan.found_model.fetch()
    tokenizer = load_tokenizer(folder)
    template, max_length, truncates = Template.from_tokenizer(tokenizer), NO_LIMIT, False
    if isinstance(options, TrainingOptions):
        template = Template.from_options(tokenizer, options)
        max_length = min(options.max_length, config_context_length(load_config(folder)))
        truncates = getattr(options, "truncate_prompts", False)
    trains_rejected = "rejected" in plan.technique.offer.trains_on

    def tokenize(record: Record) -> list[TokenizedRow]:
        rows = []
        for example in examples_of(record):
            pairs = list(zip(map(int, example.ids), map(bool, example.trained), strict=True))
            runs = [
                (template.tokenizer.decode([token for token, _ in run]), is_trained)
                for is_trained, run in groupby(pairs, key=lambda pair: pair[1])
            ]
            trained = sum(is_trained for _, is_trained in pairs)
            rows.append(TokenizedRow(runs, len(pairs), trained))
        return rows

    def examples_of(record: Record) -> Iterator[Example]:
        for one in _list_trained(unpaired_to_chat(record), trains_rejected):
            yield from template.tokenize_record(one, max_length, truncate_prompts=truncates)

    return tokenize


def describe_thinking_modes(plan: Plan | None) -> list[str]:
    """Return descriptions of both modes of a template with reasoning, or [] for other templates."""
    from tunesmith_torch.data.thinking import find_thinking_modes
    from tunesmith_torch.models.loading import load_tokenizer
    from tunesmith_torch.options.training import TrainingOptions

    if plan is None or not isinstance(plan.technique.config, TrainingOptions):
        return []
    tokenizer = load_tokenizer(plan.found_model.fetch())
    modes = find_thinking_modes(tokenizer, plan.technique.config)
    return modes.describe() if modes else []


def _list_trained(record: Record, trains_rejected: bool) -> list[Record]:
    """Return a record's conversation, or the two conversations of a pair."""
    if isinstance(record, Preference) and trains_rejected:
        return [record, replace(record, chosen=record.rejected)]
    return [record]
