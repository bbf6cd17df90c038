"""The amount of training: rows in tokens, as exactly as is possible without a model.

With a tokenizer, rows are tokenized as in training (``token_lengths``). Without one, their tokens
are guessed from their characters. Without data, assumed rows take their place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Prompt,
    Record,
    Text,
    UnpairedPreference,
    last_exchange,
)
from tunesmith_evidence.number_text import format_share
from tunesmith_torch.data.large_data import sample_if_large
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import TrainingOptions

__all__ = ["Grouping", "RowLengths", "Workload"]

CHARACTERS_PER_TOKEN = (2.2, 3.8, 5.0)
"""Characters per token: few (code, other scripts), usual in English, many."""
TEMPLATE_TOKENS_PER_MESSAGE = 6
"""Tokens that a chat template writes around each message."""
DEFAULT_SYSTEM_PROMPT_TOKENS = 40
"""Tokens of a default system prompt that a template may write before the first message."""
DEFAULT_ASSUMPTIONS = Assumptions(sequence=1024, micro_batch=None, rows=1000)
DEFAULT_TRAINED_SHARE = 0.5
"""Share of tokens that contribute to the loss where nothing is known about the rows."""


class RowLengths(NamedTuple):
    """Tokens of a prompt and of the completions that are computed together with it."""

    prompt: int
    completions: tuple[int, ...]

    def truncated_to(self, limit: int) -> RowLengths:
        """Return the lengths with prompt and completions cut to at most ``limit`` tokens."""
        completions = tuple(min(tokens, limit) for tokens in self.completions)
        return RowLengths(min(self.prompt, max(1, limit - max(completions))), completions)

    def scaled(self, factor: float) -> RowLengths:
        """Return the lengths times a factor, each at least 1."""
        completions = tuple(max(1, round(tokens * factor)) for tokens in self.completions)
        return RowLengths(max(1, round(self.prompt * factor)), completions)


@dataclass(frozen=True)
class Grouping:
    """The parts of a record that are computed together, and those that contribute to the loss."""

    both_completions: bool = False
    """Both completions of a pair are computed; otherwise only the chosen one."""
    sampled_completions: tuple[int, int] | None = None
    """Number and token limit of completions that the model samples in place of the record's."""
    shares_prompt: bool = False
    """A prompt is computed once for all of its completions."""
    scores_last_token: bool = False
    """Loss of a reward model: only the last token of each completion counts, and it is repeated."""

    def row_lengths(self, prompt: int, completions: Sequence[int]) -> RowLengths:
        """Return the lengths that are computed of a record with these lengths."""
        if self.sampled_completions is not None:
            samples, tokens = self.sampled_completions
            return RowLengths(prompt, (tokens,) * samples)
        return RowLengths(prompt, tuple(completions if self.both_completions else completions[:1]))

    def token_count(self, row: RowLengths) -> int:
        """Return the positions that the model computes for a row."""
        completions = sum(row.completions)
        if self.scores_last_token:
            completions += len(row.completions)
        if self.shares_prompt:
            # The prompt's last token is the first input of every completion, so it is not shared.
            return completions + row.prompt - 1
        return completions + row.prompt * len(row.completions)

    def loss_positions(self, row: RowLengths) -> int:
        """Return the number of positions of a row that contribute to the loss."""
        return len(row.completions) if self.scores_last_token else sum(row.completions)


SINGLE_COMPLETION = Grouping()
"""Supervised training: one completion to each prompt."""


@dataclass(frozen=True)
class Workload:
    """The rows that training computes, and its largest micro-batch."""

    grouping: Grouping
    row_tokens: tuple[int, ...]
    """Tokens of each row."""
    trained_share: float
    """Share of tokens that contribute to the loss."""
    steps: int
    """Optimizer steps."""
    tokens: int
    """Tokens over all epochs."""
    micro_batch: tuple[RowLengths, ...]
    """The largest micro-batch."""
    accumulates_gradients: bool
    """True if a step has several micro-batches, so that gradients exist during the next forward."""
    length_factors: tuple[float, float]
    """Factors below and above these lengths between which the real lengths should lie."""
    test: tuple[RowLengths, ...]
    notes: tuple[str, ...]
    common_prefix_tokens: int = 0
    """Tokens with which all rows begin, and which a micro-batch holds once."""

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row."""
        return max(self.row_tokens)

    @property
    def has_ragged_rows(self) -> bool:
        """True if rows differ in length, so that micro-batches differ in size."""
        return len(set(self.row_tokens)) > 1

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of the largest micro-batch, with the common prefix counted once."""
        repeated_prefixes = len(self.micro_batch) - 1
        tokens = sum(map(self.grouping.token_count, self.micro_batch))
        return tokens - self.common_prefix_tokens * repeated_prefixes


def guess_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    context_length: int,
    grouping: Grouping = SINGLE_COMPLETION,
) -> Workload:
    """Return the workload guessed from characters or from assumptions; imports nothing heavy."""
    limit = min(options.max_length, context_length)
    if request.assumed is not None or not request.train:
        return assume_workload(options, request, limit, grouping)
    few, usual, many = CHARACTERS_PER_TOKEN
    train, test_sample = sample_if_large(request.train), sample_if_large(request.test)
    if grouping.sampled_completions is None:
        guesses = [_guess_lengths(_character_counts(record), usual) for record in train]
    else:
        prompts = dict.fromkeys(last_exchange(record)[0] for record in train)
        guesses = [_guess_lengths((_prompt_characters(prompt), ()), usual) for prompt in prompts]
    sample = [grouping.row_lengths(*lengths).truncated_to(limit) for lengths in guesses]
    rows = repeat_rows(sample, len(request.train) / len(train))
    test = tuple(_guess_lengths(_character_counts(record), usual) for record in test_sample)
    mean = sum(map(grouping.token_count, sample)) / len(sample)
    note = (
        f"lengths are guessed from characters, {usual} to a token; {few} to {many} are usual: "
        "with the model's tokenizer at hand they would be exact"
    )
    return build_workload(
        options,
        rows,
        request.seed,
        grouping,
        processes=request.processes,
        length_factors=(usual / many, usual / few + DEFAULT_SYSTEM_PROMPT_TOKENS / mean),
        test=test,
        notes=(note,),
    )


def repeat_rows(sample: Sequence[RowLengths], factor: float) -> list[RowLengths]:
    """Return ``factor`` times as many rows, with the lengths of a sample."""
    count = round(len(sample) * factor)
    return [sample[number * len(sample) // count] for number in range(count)]


def assume_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    limit: int,
    grouping: Grouping = SINGLE_COMPLETION,
) -> Workload:
    """Return the workload of rows that are all of one assumed length."""
    rows, notes = request.assumed or DEFAULT_ASSUMPTIONS, []
    sequence, count = rows.sequence, rows.rows
    if sequence is None:
        sequence = min(DEFAULT_ASSUMPTIONS.sequence or limit, limit)
        notes.append(f"rows of {sequence} tokens are assumed")
    if count is None:
        count = DEFAULT_ASSUMPTIONS.rows or 1
        notes.append(f"{count} rows are assumed")
    notes.append(
        f"{format_share(DEFAULT_TRAINED_SHARE)} of the tokens are taken to contribute to the loss"
    )
    trained = round(sequence * DEFAULT_TRAINED_SHARE)
    row = grouping.row_lengths(sequence - trained, (trained,) * 2)
    budget = grouping.token_count(row) * rows.micro_batch if rows.micro_batch else None
    return build_workload(
        options,
        [row] * count,
        request.seed,
        grouping,
        processes=request.processes,
        budget=budget,
        test=(RowLengths(sequence - trained, (trained,)),) * min(count, 64),
        notes=tuple(notes),
    )


MIN_SAMPLED_SHARE = 0.4
"""Lowest total length of sampled completions, as a share of their limit."""


def build_workload(  # noqa: PLR0913 - all but the first three have a meaningful default
    options: TrainingOptions,
    rows: Sequence[RowLengths],
    seed: int,
    grouping: Grouping = SINGLE_COMPLETION,
    *,
    processes: int = 1,
    budget: int | None = None,
    length_factors: tuple[float, float] = (1.0, 1.0),
    test: Sequence[RowLengths] = (),
    notes: tuple[str, ...] = (),
) -> Workload:
    """Return the workload of these rows, with the largest micro-batch that the options allow.

    Several processes distribute the rows of a batch, the longest to different ones.
    """
    batch_size = options.batch_size or AUTO_BATCH_SIZE
    order = BatchOrder(len(rows), batch_size, options.epochs, seed, options.max_steps)
    budget = budget or options.micro_batch_tokens or AUTO_MICRO_BATCH_TOKENS
    row_tokens = [grouping.token_count(row) for row in rows]
    by_tokens = sorted(range(len(rows)), key=row_tokens.__getitem__, reverse=True)
    longest = [rows[index] for index in by_tokens[: -(-batch_size // processes)]]
    mean_batch_tokens = sum(row_tokens) / len(row_tokens) * min(batch_size, len(row_tokens))
    full_epoch = order.steps >= order.steps_per_epoch
    epochs = order.steps / order.steps_per_epoch
    low, high = length_factors
    return Workload(
        grouping=grouping,
        row_tokens=tuple(row_tokens),
        trained_share=sum(map(grouping.loss_positions, rows)) / max(sum(row_tokens), 1),
        steps=order.steps,
        tokens=round(sum(row_tokens) * epochs),
        micro_batch=_largest_micro_batch(longest, budget, grouping, packed=options.packing),
        # A part of an epoch may have larger batches than the mean.
        accumulates_gradients=mean_batch_tokens / processes > budget or not full_epoch,
        length_factors=(low * MIN_SAMPLED_SHARE, high)
        if grouping.sampled_completions
        else length_factors,
        test=tuple(test),
        notes=notes,
    )


AUTO_BATCH_SIZE, AUTO_MICRO_BATCH_TOKENS = 16, 4096
"""Rows per step, and tokens per micro-batch, that an estimate takes for ``auto``."""


def _largest_micro_batch(
    longest: Sequence[RowLengths], budget: int, grouping: Grouping, *, packed: bool
) -> tuple[RowLengths, ...]:
    """Return the largest possible micro-batch: as many of the longest rows as fit the budget.

    Padded, a micro-batch is a rectangle: its number of rows times its longest row. Packed, the
    last row is shortened to fill the budget.
    """
    first, token_count = longest[0], grouping.token_count
    if not packed:
        return (first,) * max(1, min(budget // token_count(first), len(longest)))
    rows, remaining = [first], budget - token_count(first)
    for row in longest[1:]:
        if token_count(row) <= remaining:
            rows.append(row)
            remaining -= token_count(row)
        elif remaining > 0:  # some shorter row may have just the length that is left
            rows.append(row.scaled(remaining / token_count(row)))
            break
    return tuple(rows)


CharacterCounts = tuple[Sequence[int], Sequence[int]]
"""Characters of each prompt message, and of each completion."""


def _guess_lengths(characters: CharacterCounts, characters_per_token: float) -> RowLengths:
    """Return the tokens that these characters probably have."""
    prompt, completions = characters
    # One token more ends each completion.
    tokens = tuple(max(round(count / characters_per_token), 1) + 1 for count in completions)
    template = TEMPLATE_TOKENS_PER_MESSAGE * len(prompt)
    return RowLengths(round(sum(prompt) / characters_per_token) + template, tokens)


def _character_counts(record: Record) -> CharacterCounts:
    """Return a record's characters. All replies of a chat are trained: they count as one."""
    match record:
        case Text():
            return (), (len(record.text),)
        case Completion():
            return (len(record.prompt),), (len(record.completion),)
        case Chat():
            answers = [m for m in record.messages if m.role == "assistant"]
            others = [m for m in record.messages if m.role != "assistant"]
            return _message_characters(others), (sum(_message_characters(answers)),)
        case Preference():
            return _prompt_characters(record.prompt), (len(record.chosen), len(record.rejected))
        case UnpairedPreference():
            return _prompt_characters(record.prompt), (len(record.completion),)
        case _:
            raise TypeError(f"no lengths are known for {type(record).__name__}")


def _prompt_characters(prompt: Prompt) -> Sequence[int]:
    return [len(prompt)] if isinstance(prompt, str) else _message_characters(prompt)


def _message_characters(messages: Sequence[Message]) -> Sequence[int]:
    return [
        len(m.text)
        + len(m.reasoning)
        + sum(len(call.name) + len(call.arguments) for call in m.tool_calls)
        + sum(map(len, m.tools))
        for m in messages
    ]
