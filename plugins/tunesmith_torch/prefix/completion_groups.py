"""A prompt and several answers to it: their layout, and how likely a model finds each answer.

Shapes: R groups, A answers of a micro-batch, N trained positions (all tokens of all answers),
T tokens.

Preference pairs are groups of two, samples of a policy groups of eight or so. With ``sharing`` the
prompt is computed once for all of its answers (:mod:`tunesmith_torch.kernels.tree_attention`); its last token is
repeated at the head of each answer, because there the answer's first token is guessed.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.errors import DataError
from tunesmith.records import Preference, Record
from tunesmith_torch.data.packing import Example, MicroBatch, collate, pack, unpacked
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels.tree_attention import Branch, Branches
from tunesmith_torch.losses.selected_positions import base_of, head_of, trained_hidden
from tunesmith_torch.runtime.eval_mode import evaluating


@dataclass(frozen=True)
class Group:
    """A prompt of at least one token and the answers to it, all as token ids."""

    prompt: Sequence[int]
    answers: tuple[Sequence[int], ...]

    @property
    def answer_tokens(self) -> int:
        return sum(map(len, self.answers))


@dataclass(frozen=True)
class Answers:
    """A micro-batch of groups."""

    batch: MicroBatch
    answer_N: Tensor
    """Which answer a trained position belongs to, counted through the micro-batch."""
    lengths_A: Tensor
    """Tokens of each answer."""
    groups: tuple[int, ...]
    """Numbers of the groups, in the micro-batch's order."""
    branches: Branches | None

    def sums(self, values_N: Tensor) -> Tensor:
        """Add up a value of each trained position over each answer, [A]."""
        zeros_A = values_N.new_zeros(len(self.lengths_A))
        return zeros_A.index_add(0, self.answer_N, values_N)

    def to(self, device: torch.device) -> Answers:
        moved = self.branches
        if moved is not None:
            moved = replace(moved, trunk_cuts=moved.trunk_cuts.to(device))
        return Answers(
            self.batch.to(device),
            self.answer_N.to(device),
            self.lengths_A.to(device),
            self.groups,
            moved,
        )


@dataclass(frozen=True)
class Layout:
    """How groups become micro-batches; what is computed does not depend on it."""

    packing: bool = True
    sharing: bool = True

    def size(self, group: Group) -> int:
        """Tokens that the group costs."""
        if self.packing and self.sharing:
            return len(group.prompt) - 1 + group.answer_tokens
        return len(group.prompt) * len(group.answers) + group.answer_tokens

    def micro_batches(
        self, groups: Sequence[Group], rows: Sequence[int], budget: int
    ) -> Iterator[Answers]:
        """The groups with these numbers, at most ``budget`` tokens at a time."""
        if not rows:
            return
        # Padded, a group takes as many places as its longest answer says; never torn apart.
        sizes = [
            self.size(groups[row])
            if self.packing
            else len(groups[row].answers) * _longest(groups[row])
            for row in rows
        ]
        share = pack if self.packing else unpacked
        for members in share(sizes, max(budget, *sizes)):
            yield self.collate(groups, [rows[i] for i in members])

    def collate(self, groups: Sequence[Group], rows: Sequence[int]) -> Answers:
        """One micro-batch of these groups."""
        chosen = [groups[row] for row in rows]
        lengths = [len(answer) for group in chosen for answer in group.answers]
        if self.packing and self.sharing:
            batch, layout = _branched(chosen, rows)
        else:
            layout = None
            examples = [
                Example(
                    [*group.prompt, *answer],
                    np.arange(len(group.prompt) + len(answer)) >= len(group.prompt),
                )
                for group in chosen
                for answer in group.answers
            ]
            batch = collate(examples, range(len(examples)), packed=self.packing)
        lengths_A = torch.tensor(lengths)
        answer_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths_A)
        return Answers(batch, answer_N, lengths_A, tuple(rows), layout)


def answer_hidden(model: nn.Module, answers: Answers) -> Tensor:
    """Hidden states at the positions from which answers' tokens are guessed, [N, D]."""
    also = {} if answers.branches is None else {"branches": answers.branches}
    return trained_hidden(model, answers.batch, also=also)


def answer_logprobs(model: nn.Module, answers: Answers) -> Tensor:
    """Log-probability of every token of every answer, [N], ready for backward."""
    return head_of(model).logprobs(answer_hidden(model, answers), answers.batch)


@torch.no_grad()
def score_groups(
    model: nn.Module, groups: Sequence[Group], layout: Layout, budget: int
) -> list[Tensor]:
    """Log-probabilities of all answers, summed over each; in eval mode, given back on the CPU."""
    device = base_of(model).device
    scores: list[Tensor] = [torch.empty(0)] * len(groups)
    with evaluating(model):
        for cpu in layout.micro_batches(groups, range(len(groups)), budget):
            answers = cpu.to(device)
            sums_A = answers.sums(answer_logprobs(model, answers)).cpu()
            counts = [len(groups[row].answers) for row in answers.groups]
            for row, part in zip(answers.groups, torch.split(sums_A, counts), strict=True):
                scores[row] = part
    return scores


def _longest(group: Group) -> int:
    return len(group.prompt) + max(map(len, group.answers))


def _branched(groups: Sequence[Group], rows: Sequence[int]) -> tuple[MicroBatch, Branches]:
    """Trunks first, then answers, each led by its prompt's last token. Nothing follows an answer's
    last token, so it is a target only.
    """
    trunks = [np.asarray(group.prompt[:-1], dtype=np.int64) for group in groups]
    cuts = [0, *accumulate(map(len, trunks))]
    ids, positions, targets, places = [*trunks], [np.arange(len(t)) for t in trunks], [], []
    at = cuts[-1]
    for group, (start, stop) in zip(groups, pairwise(cuts), strict=True):
        for answer in group.answers:
            row = np.asarray([group.prompt[-1], *answer], dtype=np.int64)
            ids.append(row[:-1])
            targets.append(row[1:])
            positions.append(np.arange(len(answer)) + (stop - start))
            places.append(Branch(start, stop, at, at + len(answer)))
            at += len(answer)
    batch = MicroBatch(
        ids_BT=torch.from_numpy(np.concatenate(ids))[None],
        positions_BT=torch.from_numpy(np.concatenate(positions))[None],
        boundaries=None,
        mask_BT=None,
        trained_N=torch.arange(cuts[-1], at),
        targets_N=torch.from_numpy(np.concatenate(targets)),
        weights_N=None,
        rows=tuple(rows),
        tokens=at,
        longest=max(_longest(group) for group in groups),
    )
    # An empty trunk is no row for packed attention.
    kept = sorted(set(cuts))
    widest = max((len(trunk) for trunk in trunks), default=0)
    return batch, Branches(torch.tensor(kept, dtype=torch.int32), widest, tuple(places))


def groups_of(records: Sequence[Record], template: Template) -> list[Group]:
    """Preferences as token ids: the prompt, then chosen and rejected.

    Raises:
        DataError: a record is no pair.
    """
    pairs = [_pair(record) for record in records]
    prompts = [record.prompt for record in pairs]
    chosen = template.exchanges_ids(prompts, [record.chosen for record in pairs])
    rejected = template.exchanges_ids(prompts, [record.rejected for record in pairs])
    return [
        Group(prompt, (good, bad))
        for (prompt, good), (_, bad) in zip(chosen, rejected, strict=True)
    ]


def _pair(record: Record) -> Preference:
    if not isinstance(record, Preference):
        kind = type(record).__name__
        raise DataError(record.source, f"a pair of answers is needed, this is a {kind}")
    return record


def with_ends(
    layout: Layout, groups: Sequence[Group], rows: Sequence[int], budget: int
) -> Iterator[Answers]:
    """The groups laid out so that exactly the states of the answers' last tokens come back."""
    longer = [
        Group(group.prompt, tuple([*answer, answer[-1]] for answer in group.answers))
        for group in (groups[row] for row in rows)
    ]
    for answers in layout.micro_batches(longer, range(len(longer)), budget):
        last_A = answers.lengths_A.cumsum(0) - 1
        batch = replace(
            answers.batch,
            trained_N=answers.batch.trained_N[last_A],
            targets_N=answers.batch.targets_N[last_A],
        )
        yield replace(
            answers,
            batch=batch,
            answer_N=torch.arange(len(last_A)),
            groups=tuple(rows[i] for i in answers.groups),
        )
