"""How much there is to compute: rows in tokens, as exactly as can be had without a model.

With a tokenizer at hand rows are tokenised as training will; else their tokens are guessed from
their characters; without data, rows that are assumed stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith.records import Chat, Completion, Message, Preference, Record, Text
from tunesmith_torch.options import FitOptions
from tunesmith_torch.schedule import Order

CHARACTERS = (2.2, 3.8, 5.0)
"""Characters that one token stands for: few (code, other scripts), usual in English, many."""
FRAME = 6
"""Tokens that a chat template writes around each message."""
ASSUMED = Assumed(sequence=1024, micro_batch=None, rows=1000)
TRAINED = 0.5
"""Share of tokens that carry loss where nothing is known about rows."""


@dataclass(frozen=True)
class Workload:
    """What training computes."""

    lengths: tuple[int, ...]
    """Tokens of each row."""
    trained: float
    """Share of tokens that carry loss."""
    steps: int
    tokens: int
    """Over all epochs."""
    micro: tuple[int, ...]
    """Rows, in tokens, of the largest micro-batch."""
    several: bool
    """Whether a step has more than one micro-batch, so that gradients wait while it computes."""
    spread: tuple[float, float]
    """How far real lengths may be from these, as factors below and above."""
    heldout: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def micro_tokens(self) -> int:
        return sum(self.micro)


def guess(options: FitOptions, request: EstimateRequest, context: int) -> Workload:
    """The workload from characters, or from what is assumed; nothing heavy is imported."""
    limit = min(options.max_tokens, context)
    if request.assumed is not None or not request.train:
        return assumed(options, request.assumed or ASSUMED, limit, request.seed)
    few, usual, many = CHARACTERS
    lengths, trained = zip(*(_guessed(record, usual) for record in request.train), strict=True)
    heldout = tuple(_guessed(record, usual)[0] for record in request.heldout)
    share = sum(trained) / max(sum(lengths), 1)
    note = (
        f"lengths are guessed from characters, {usual} to a token; {few} to {many} are usual: "
        "with the model's tokenizer at hand they would be exact"
    )
    return laid_out(
        options,
        [min(length, limit) for length in lengths],
        share,
        request.seed,
        spread=(usual / many, usual / few),
        heldout=heldout,
        notes=(note,),
    )


def assumed(options: FitOptions, rows: Assumed, limit: int, seed: int) -> Workload:
    """The workload of rows that are all alike."""
    notes = []
    sequence, count = rows.sequence, rows.rows
    if sequence is None:
        sequence = min(ASSUMED.sequence or limit, limit)
        notes.append(f"rows of {sequence} tokens are assumed")
    if count is None:
        count = ASSUMED.rows or 1
        notes.append(f"{count} rows are assumed")
    notes.append(f"{TRAINED:.0%} of the tokens are taken to carry loss")
    micro_batch = rows.micro_batch
    budget = sequence * micro_batch if micro_batch else None
    return laid_out(
        options,
        [sequence] * count,
        TRAINED,
        seed,
        budget=budget,
        heldout=(sequence,) * min(count, 64),
        notes=tuple(notes),
    )


def laid_out(  # noqa: PLR0913 - all but the first four have a meaningful default
    options: FitOptions,
    lengths: Sequence[int],
    trained: float,
    seed: int,
    *,
    budget: int | None = None,
    spread: tuple[float, float] = (1.0, 1.0),
    heldout: Sequence[int] = (),
    notes: tuple[str, ...] = (),
) -> Workload:
    """Rows of these lengths, and the largest micro-batch that the options allow of them."""
    batch = options.batch or FEW_ROWS
    order = Order(len(lengths), batch, options.epochs, seed, options.max_steps)
    most = budget or options.micro_tokens or FEW_TOKENS
    micro = _largest(sorted(lengths, reverse=True)[:batch], most, packed=options.packing)
    whole_epoch = order.steps >= order.steps_per_epoch
    share = order.steps / order.steps_per_epoch
    return Workload(
        lengths=tuple(lengths),
        trained=trained,
        steps=order.steps,
        tokens=round(sum(lengths) * share),
        micro=micro,
        several=sum(lengths) / len(lengths) * min(batch, len(lengths)) > most or not whole_epoch,
        spread=spread,
        heldout=tuple(heldout),
        notes=notes,
    )


FEW_ROWS, FEW_TOKENS = 16, 4096
"""Rows of a step, and tokens at once, where the run picks them itself."""


def _largest(longest: Sequence[int], budget: int, *, packed: bool) -> tuple[int, ...]:
    """The most that one micro-batch can hold: of the longest rows as many as fit, filled up.

    Padded, a micro-batch is a rectangle: rows times its longest.
    """
    first = longest[0]
    if not packed:
        return (first,) * max(1, min(budget // first, len(longest)))
    rows, room = [first], budget - first
    for length in longest[1:]:
        if length <= room:
            rows.append(length)
            room -= length
        elif room > 0:  # another row may be as long as this
            rows.append(room)
            break
    return tuple(rows)


def _guessed(record: Record, usual: float) -> tuple[int, int]:
    """Tokens of a record, and how many of them carry loss."""
    prompt, answer = _characters(record)
    frames = FRAME * len(prompt)
    trained = max(round(sum(answer) / usual), 1) + 1
    return round(sum(prompt) / usual) + frames + trained, trained


def _characters(record: Record) -> tuple[list[int], list[int]]:
    """Characters of each message that is read, and of each that is learned."""
    match record:
        case Text():
            return [], [len(record.text)]
        case Completion():
            return [len(record.prompt)], [len(record.completion)]
        case Chat():
            return _parts(record.messages)
        case Preference():
            prompt, answer = _parts(record.prompt)
            return prompt + answer, [len(record.chosen)]
        case _:
            raise TypeError(f"no lengths are known for {type(record).__name__}")


def _parts(messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    parts: tuple[list[int], list[int]] = ([], [])
    for message in messages:
        parts[message.role == "assistant"].append(len(message.content))
    return parts
