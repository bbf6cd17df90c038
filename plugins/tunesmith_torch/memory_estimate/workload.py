"""Estimate the workload of a training run: the lengths of rows and micro-batches in tokens.

With a tokenizer, rows are tokenized as in training (``token_lengths``). Without one, tokens are
estimated from characters. Without data, row lengths are assumed.
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
from tunesmith_torch.options.pilot_steps import predict_pilot_steps
from tunesmith_torch.options.training import TrainingOptions

__all__ = ["Grouping", "RowLengths", "Workload"]

CHARACTERS_PER_TOKEN = (2.2, 3.8, 5.0)
"""Characters per token: few (code, non-Latin scripts), usual (English) and many."""
TEMPLATE_TOKENS_PER_MESSAGE = 6
"""Number of tokens that a chat template writes around each message."""
DEFAULT_SYSTEM_PROMPT_TOKENS = 40
"""Number of tokens of a default system prompt, which a template may write first."""
DEFAULT_ASSUMPTIONS = Assumptions(sequence=1024, micro_batch=None, rows=1000)
DEFAULT_TRAINED_SHARE = 0.5
"""Assumed share of tokens that contribute to the loss, if the rows are unknown."""


class RowLengths(NamedTuple):
    """Numbers of tokens of a prompt and of the completions computed together with it."""

    prompt: int
    completions: tuple[int, ...]

    def truncated_to(self, limit: int) -> RowLengths:
        """Return the lengths with the row cut to at most ``limit`` tokens, the prompt first."""
        completions = tuple(min(tokens, limit) for tokens in self.completions)
        return RowLengths(min(self.prompt, max(1, limit - max(completions))), completions)

    def scaled(self, factor: float) -> RowLengths:
        """Return the lengths multiplied by a factor, each at least 1."""
        completions = tuple(max(1, round(tokens * factor)) for tokens in self.completions)
        return RowLengths(max(1, round(self.prompt * factor)), completions)


@dataclass(frozen=True)
class Grouping:
    """The texts of a record that are computed together, and those that contribute to the loss."""

    both_completions: bool = False
    """True if both completions of a pair are computed; False if only the chosen one is."""
    sampled_completions: tuple[int, int] | None = None
    """Number and token limit of the completions that are sampled for a prompt.

    None if the record's own completions are computed.
    """
    shares_prompt: bool = False
    """True if a prompt is computed once for all of its completions."""
    scores_last_token: bool = False
    """True for a reward model, which scores only the last token of each completion.

    Each completion then has one extra token.
    """

    def row_lengths(self, prompt: int, completions: Sequence[int]) -> RowLengths:
        """Return the lengths that are computed for a record with these lengths."""
        if self.sampled_completions is not None:
            samples, tokens = self.sampled_completions
            return RowLengths(prompt, (tokens,) * samples)
        return RowLengths(prompt, tuple(completions if self.both_completions else completions[:1]))

    def token_count(self, row: RowLengths) -> int:
        """Return the number of positions that the model computes for a row."""
        completions = sum(row.completions)
        if self.scores_last_token:
            completions += len(row.completions)
        if self.shares_prompt:
            # The prompt's last token is every completion's first input, so it is not shared.
            return completions + row.prompt - 1
        return completions + row.prompt * len(row.completions)

    def loss_positions(self, row: RowLengths) -> int:
        """Return the number of positions of a row that contribute to the loss."""
        return len(row.completions) if self.scores_last_token else sum(row.completions)


SINGLE_COMPLETION = Grouping()
"""Grouping of supervised training: one completion per prompt."""


@dataclass(frozen=True)
class Workload:
    """The workload: the rows that training computes, and its largest micro-batch."""

    grouping: Grouping
    row_tokens: tuple[int, ...]
    """Number of tokens of each row."""
    trained_share: float
    """Share of tokens that contribute to the loss."""
    steps: int
    """Number of optimizer steps."""
    pilot_steps: int
    """Number of steps of pilot runs before the training, which are not in ``steps``."""
    tokens: int
    """Number of tokens over all epochs."""
    micro_batch: tuple[RowLengths, ...]
    """The rows of the largest micro-batch."""
    accumulates_gradients: bool
    """True if a step has several micro-batches: later micro-batches add to the gradients of earlier
    micro-batches."""
    length_factors: tuple[float, float]
    """Bounds of the real row lengths, relative to these lengths."""
    test: tuple[RowLengths, ...]
    notes: tuple[str, ...]
    common_prefix_tokens: int = 0
    """Number of tokens that all rows start with; each micro-batch holds them once."""

    @property
    def longest_row(self) -> int:
        """Number of tokens of the longest row."""
        return max(self.row_tokens)

    @property
    def has_ragged_rows(self) -> bool:
        """True if rows differ in length, which makes micro-batches differ in size."""
        return len(set(self.row_tokens)) > 1

    @property
    def micro_batch_tokens(self) -> int:
        """Number of tokens of the largest micro-batch, with the common prefix counted once."""
        repeated_prefixes = len(self.micro_batch) - 1
        tokens = sum(map(self.grouping.token_count, self.micro_batch))
        return tokens - self.common_prefix_tokens * repeated_prefixes


def guess_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    context_length: int,
    grouping: Grouping = SINGLE_COMPLETION,
) -> Workload:
    """Return the workload, estimated from characters or assumptions, without importing torch."""
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
        f"row lengths are estimated at {usual} characters per token (usual: {few} to {many}); "
        "with the model's tokenizer they would be exact"
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
    """Return ``factor`` times as many rows, by repeating the rows of a sample."""
    count = round(len(sample) * factor)
    return [sample[number * len(sample) // count] for number in range(count)]


def assume_workload(
    options: TrainingOptions,
    request: EstimateRequest,
    limit: int,
    grouping: Grouping = SINGLE_COMPLETION,
) -> Workload:
    """Return the workload of rows that all have the same assumed length."""
    rows, notes = request.assumed or DEFAULT_ASSUMPTIONS, []
    sequence, count = rows.sequence, rows.rows
    if sequence is None:
        sequence = min(DEFAULT_ASSUMPTIONS.sequence or limit, limit)
        notes.append(f"rows of {sequence} tokens are assumed")
    if count is None:
        count = DEFAULT_ASSUMPTIONS.rows or 1
        notes.append(f"{count} rows are assumed")
    notes.append(
        f"{format_share(DEFAULT_TRAINED_SHARE)} of the tokens are assumed to contribute to the loss"
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
"""Lower bound of the total length of sampled completions, as a share of their limit."""


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

    Several processes divide the rows of a batch; the longest rows go to different processes.
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
        pilot_steps=predict_pilot_steps(options, order.steps),
        tokens=round(sum(row_tokens) * epochs),
        micro_batch=_largest_micro_batch(longest, budget, grouping, packed=options.packing),
        # In less than an epoch, batches may be larger than the mean.
        accumulates_gradients=mean_batch_tokens / processes > budget or not full_epoch,
        length_factors=(low * MIN_SAMPLED_SHARE, high)
        if grouping.sampled_completions
        else length_factors,
        test=tuple(test),
        notes=notes,
    )


AUTO_BATCH_SIZE, AUTO_MICRO_BATCH_TOKENS = 16, 4096
"""Rows per step, and tokens per micro-batch, that an estimate assumes for ``auto``."""


def _largest_micro_batch(
    longest: Sequence[RowLengths], budget: int, grouping: Grouping, *, packed: bool
) -> tuple[RowLengths, ...]:
    """Return the largest possible micro-batch: as many of the longest rows as fit the budget.

    A padded micro-batch computes its number of rows times its longest row. In a packed one, the
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
        elif remaining > 0:  # some shorter row may fill the rest exactly
            rows.append(row.scaled(remaining / token_count(row)))
            break
    return tuple(rows)


CharacterCounts = tuple[Sequence[int], Sequence[int]]
"""Numbers of characters of each prompt message, and of each completion."""


def _guess_lengths(characters: CharacterCounts, characters_per_token: float) -> RowLengths:
    """Return the estimated numbers of tokens for these numbers of characters."""
    prompt, completions = characters
    # Each completion ends with one more token.
    tokens = tuple(max(round(count / characters_per_token), 1) + 1 for count in completions)
    template = TEMPLATE_TOKENS_PER_MESSAGE * len(prompt)
    return RowLengths(round(sum(prompt) / characters_per_token) + template, tokens)


def _character_counts(record: Record) -> CharacterCounts:
    """Return a record's character counts; all replies of a chat count as one completion."""
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
            kind = type(record).__name__
            raise TypeError(f"cannot estimate the length of records of type {kind}")


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
