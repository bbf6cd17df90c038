"""Rows of a prompt and an answer, and their division into padded batches."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from tunesmith_torch.data.packing import Example, MicroBatch, collate, padded_batches


class ScoredRow(NamedTuple):
    """The token ids of a prompt, followed by the token ids of its answer."""

    ids: array[int]
    answer_length: int
    """Number of tokens in the answer."""

    @property
    def prompt(self) -> array[int]:
        """Token ids of the prompt."""
        return self.ids[: len(self.ids) - self.answer_length]

    @property
    def num_scored(self) -> int:
        """Number of answer tokens with a probability; the first token of a row has none."""
        return min(self.answer_length, len(self.ids) - 1)

    def example(self, start: int) -> Example:
        """Return the row without its first ``start`` tokens, with a loss on the answer only."""
        prompt_length = len(self.ids) - self.answer_length
        trained = [False] * (prompt_length - start) + [True] * self.answer_length
        return Example(self.ids[start:], trained)


def pad_rows(
    rows: Sequence[ScoredRow], prefix_length: int, budget: int
) -> Iterator[tuple[list[int], MicroBatch]]:
    """Divide rows without their common prefix into batches, longest first, padded on the right.

    Yield the indices of each batch's rows, and the batch. Padding on the right needs no mask,
    because causal attention never sees the positions after a row's tokens.
    """
    order = sorted(range(len(rows)), key=lambda row: -len(rows[row].ids))
    lengths = [len(rows[row].ids) - prefix_length for row in order]
    for indices_in_order in padded_batches(lengths, max(budget, lengths[0])):
        indices = [order[i] for i in indices_in_order]
        examples = [rows[i].example(prefix_length) for i in indices]
        batch = collate(examples, range(len(examples)), packed=False)
        yield indices, replace(batch, positions_BT=batch.positions_BT + prefix_length)
