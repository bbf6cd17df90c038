"""How much there is to compute: rows in tokens, as exactly as can be had without a model.

With a tokenizer at hand rows are tokenised as training will; else their tokens are guessed from
their characters; without data, rows that are assumed stand in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith.records import (
    Chat,
    Completion,
    Message,
    Preference,
    Prompt,
    Record,
    Text,
    last_exchange,
)
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.training import FitOptions

CHARACTERS = (2.2, 3.8, 5.0)
"""Characters that one token stands for: few (code, other scripts), usual in English, many."""
FRAME = 6
"""Tokens that a chat template writes around each message."""
SYSTEM = 40
"""Tokens of a system prompt that a template may write by itself before all of them."""
ASSUMED = Assumed(sequence=1024, micro_batch=None, rows=1000)
TRAINED = 0.5
"""Share of tokens that carry loss where nothing is known about rows."""


class Row(NamedTuple):
    """What is computed together, in tokens: a prompt, and the answers to it."""

    prompt: int
    answers: tuple[int, ...]

    def within(self, limit: int) -> Row:
        """With prompts and answers that do not go beyond a limit."""
        answers = tuple(min(answer, limit) for answer in self.answers)
        return Row(min(self.prompt, max(1, limit - max(answers))), answers)

    def shrunk(self, factor: float) -> Row:
        """Of the same form, and smaller."""
        answers = tuple(max(1, round(answer * factor)) for answer in self.answers)
        return Row(max(1, round(self.prompt * factor)), answers)


@dataclass(frozen=True)
class Grouping:
    """What of a record is computed together, and what of it carries loss."""

    both: bool = False
    """Of a pair, both answers; else the chosen one."""
    drawn: tuple[int, int] | None = None
    """Answers of the model itself in the place of the record's: how many, and how long at most."""
    shared: bool = False
    """A prompt is computed once for all of its answers."""
    ends: bool = False
    """A reward model's loss: it looks at the last token of each answer, which is repeated."""

    def row(self, prompt: int, answers: Sequence[int]) -> Row:
        """What is computed of a prompt and the record's answers to it."""
        if self.drawn is not None:
            samples, tokens = self.drawn
            return Row(prompt, (tokens,) * samples)
        return Row(prompt, tuple(answers if self.both else answers[:1]))

    def size(self, row: Row) -> int:
        """Tokens that a row costs."""
        answers = sum(row.answers) + (len(row.answers) if self.ends else 0)
        return answers + (row.prompt - 1 if self.shared else row.prompt * len(row.answers))

    def scored(self, row: Row) -> int:
        """Positions of a row that carry loss."""
        return len(row.answers) if self.ends else sum(row.answers)


ALONE = Grouping()


@dataclass(frozen=True)
class Workload:
    """What training computes."""

    grouping: Grouping
    lengths: tuple[int, ...]
    """Tokens of each row."""
    trained: float
    """Share of tokens that carry loss."""
    steps: int
    tokens: int
    """Over all epochs."""
    micro: tuple[Row, ...]
    """The largest micro-batch."""
    several: bool
    """Whether a step has more than one micro-batch, so that gradients wait while it computes."""
    spread: tuple[float, float]
    """How far real lengths may be from these, as factors below and above."""
    heldout: tuple[Row, ...]
    notes: tuple[str, ...]
    opening: int = 0
    """Tokens with which all rows begin, and which a micro-batch holds once."""

    @property
    def longest(self) -> int:
        return max(self.lengths)

    @property
    def ragged(self) -> bool:
        """Whether rows differ in length, so that micro-batches differ in size."""
        return len(set(self.lengths)) > 1

    @property
    def micro_batch_tokens(self) -> int:
        return sum(map(self.grouping.size, self.micro)) - self.opening * (len(self.micro) - 1)


def guess(
    options: FitOptions, request: EstimateRequest, context: int, grouping: Grouping = ALONE
) -> Workload:
    """The workload from characters, or from what is assumed; nothing heavy is imported."""
    limit = min(options.max_length, context)
    if request.assumed is not None or not request.train:
        return assumed(options, request.assumed or ASSUMED, limit, request.seed, grouping)
    few, usual, many = CHARACTERS
    if grouping.drawn is None:
        read = [_guessed(_characters(record), usual) for record in request.train]
    else:
        asked = dict.fromkeys(last_exchange(record)[0] for record in request.train)
        read = [_guessed((_asked(prompt), ()), usual) for prompt in asked]
    rows = [grouping.row(*row).within(limit) for row in read]
    heldout = tuple(_guessed(_characters(record), usual) for record in request.heldout)
    mean = sum(map(grouping.size, rows)) / len(rows)
    note = (
        f"lengths are guessed from characters, {usual} to a token; {few} to {many} are usual: "
        "with the model's tokenizer at hand they would be exact"
    )
    return laid_out(
        options,
        rows,
        request.seed,
        grouping,
        spread=(usual / many, usual / few + SYSTEM / mean),
        heldout=heldout,
        notes=(note,),
    )


def assumed(
    options: FitOptions, rows: Assumed, limit: int, seed: int, grouping: Grouping = ALONE
) -> Workload:
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
    trained = round(sequence * TRAINED)
    row = grouping.row(sequence - trained, (trained,) * 2)
    budget = grouping.size(row) * rows.micro_batch if rows.micro_batch else None
    return laid_out(
        options,
        [row] * count,
        seed,
        grouping,
        budget=budget,
        heldout=(Row(sequence - trained, (trained,)),) * min(count, 64),
        notes=tuple(notes),
    )


DRAWN_LEAST = 0.4
"""Share of their limit to which answers of the model itself come at least, taken together."""


def laid_out(  # noqa: PLR0913 - all but the first three have a meaningful default
    options: FitOptions,
    rows: Sequence[Row],
    seed: int,
    grouping: Grouping = ALONE,
    *,
    budget: int | None = None,
    spread: tuple[float, float] = (1.0, 1.0),
    heldout: Sequence[Row] = (),
    notes: tuple[str, ...] = (),
) -> Workload:
    """These rows, and the largest micro-batch that the options allow of them."""
    batch = options.batch_size or FEW_ROWS
    order = Order(len(rows), batch, options.epochs, seed, options.max_steps)
    most = budget or options.micro_batch_tokens or FEW_TOKENS
    longest = sorted(rows, key=grouping.size, reverse=True)[:batch]
    lengths = [grouping.size(row) for row in rows]
    whole_epoch = order.steps >= order.steps_per_epoch
    share = order.steps / order.steps_per_epoch
    low, high = spread
    return Workload(
        grouping=grouping,
        lengths=tuple(lengths),
        trained=sum(map(grouping.scored, rows)) / max(sum(lengths), 1),
        steps=order.steps,
        tokens=round(sum(lengths) * share),
        micro=_largest(longest, most, grouping, packed=options.packing),
        several=sum(lengths) / len(lengths) * min(batch, len(lengths)) > most or not whole_epoch,
        spread=(low * DRAWN_LEAST, high) if grouping.drawn else spread,
        heldout=tuple(heldout),
        notes=notes,
    )


FEW_ROWS, FEW_TOKENS = 16, 4096
"""Rows of a step, and tokens at once, where the run picks them itself."""


def _largest(
    longest: Sequence[Row], budget: int, grouping: Grouping, *, packed: bool
) -> tuple[Row, ...]:
    """The most that one micro-batch can hold: of the longest rows as many as fit, filled up.

    Padded, a micro-batch is a rectangle: rows times its longest.
    """
    first, size = longest[0], grouping.size
    if not packed:
        return (first,) * max(1, min(budget // size(first), len(longest)))
    rows, room = [first], budget - size(first)
    for row in longest[1:]:
        if size(row) <= room:
            rows.append(row)
            room -= size(row)
        elif room > 0:  # another row may be as long as this
            rows.append(row.shrunk(room / size(row)))
            break
    return tuple(rows)


Characters = tuple[Sequence[int], Sequence[int]]
"""Of each message that is read, and of each answer."""


def _guessed(characters: Characters, usual: float) -> Row:
    """Tokens for characters."""
    prompt, answers = characters
    tokens = tuple(max(round(answer / usual), 1) + 1 for answer in answers)
    return Row(round(sum(prompt) / usual) + FRAME * len(prompt), tokens)


def _characters(record: Record) -> Characters:
    """A conversation's answers are all learned, as if they were one."""
    match record:
        case Text():
            return (), (len(record.text),)
        case Completion():
            return (len(record.prompt),), (len(record.completion),)
        case Chat():
            answers = [len(m.content) for m in record.messages if m.role == "assistant"]
            asked = [m for m in record.messages if m.role != "assistant"]
            return _lengths(asked), (sum(answers),)
        case Preference():
            return _asked(record.prompt), (len(record.chosen), len(record.rejected))
        case _:
            raise TypeError(f"no lengths are known for {type(record).__name__}")


def _asked(prompt: Prompt) -> Sequence[int]:
    return [len(prompt)] if isinstance(prompt, str) else _lengths(prompt)


def _lengths(messages: Sequence[Message]) -> Sequence[int]:
    return [len(message.content) for message in messages]
