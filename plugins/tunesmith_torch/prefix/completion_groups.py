"""Lay out prompts with several completions in micro-batches, and compute log-probabilities.

Shapes: R groups, C completions of a micro-batch, N loss positions (all tokens of all
completions), T tokens.

A preference pair is a group of two completions. Samples from a policy are groups of about eight.
With ``share_prompts``, a prompt is computed once for all of its completions
(:mod:`tunesmith_torch.kernels.tree_attention`; :mod:`tunesmith_torch.prefix.common_prefix` explains
why that is exact). Prompts ``p q r`` and ``s t``, with completions ``a b``, ``c`` and ``d e f``::

    group 0: p q r -> a b         | group 1: s t -> d e f
             p q r -> c           |

    tokens       p  q | s | r  a | r | t  d  e      prefixes, then branches
    positions    0  1 | 0 | 2  3 | 2 | 1  2  3
    targets                 a  b   c   d  e  f      N = 6
    completion              0  0   1   2  2  2      completion_N; lengths_C = 2 1 3

The last token of the prompt is not in the prefix but at the head of each branch: it predicts the
first token of the completion, which differs between branches. The last token of a completion is
only a target, because nothing follows it.
"""

# ruff: noqa: N815 - tensors end in their shape, attributes too
from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, islice, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from tunesmith.errors import DataError
from tunesmith.records import Preference, Record, UnpairedPreference, last_exchange
from tunesmith_torch.data.packing import Example, MicroBatch, collate, pack, padded_batches
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels.tree_attention import Branch, TreeLayout
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets, unwrap_peft
from tunesmith_torch.runtime.eval_mode import eval_mode

__all__ = [
    "CompletionBatch",
    "CompletionGroup",
    "GroupLayout",
    "LabeledCompletionGroup",
    "completion_logprobs",
    "require_pairs",
    "score_groups",
    "tokenize_pairs",
]


@dataclass(frozen=True)
class CompletionGroup:
    """A prompt of at least one token and its completions, all as token ids."""

    prompt: Sequence[int]
    """Token ids of the prompt."""
    completions: tuple[Sequence[int], ...]
    """Token ids of each completion."""

    @property
    def completion_tokens(self) -> int:
        """Total number of tokens in the completions."""
        return sum(map(len, self.completions))

    @property
    def longest_sequence(self) -> int:
        """Number of tokens in the prompt plus its longest completion."""
        return len(self.prompt) + max(map(len, self.completions))


@dataclass(frozen=True)
class LabeledCompletionGroup(CompletionGroup):
    """A group whose completions are labeled: a preference pair, unless ``labels`` are given."""

    labels: tuple[bool, ...] = (True, False)
    """For each completion, True if it was chosen in a pair or labeled as good."""


@dataclass(frozen=True)
class CompletionBatch:
    """A micro-batch of prompts with their completions."""

    batch: MicroBatch
    """The tokens, and the N loss positions of all C completions."""
    completion_N: Tensor
    """Index of each loss position's completion, 0 to C - 1."""
    lengths_C: Tensor
    """Number of tokens in each completion."""
    group_indices: tuple[int, ...]
    """Indices of the groups in the list of all groups, in the order of the micro-batch."""
    tree_layout: TreeLayout | None
    """The prompts and their branches; None: each completion repeats its prompt."""

    def sum_per_completion(self, values_N: Tensor) -> Tensor:
        """Sum values of loss positions over each completion, [C]."""
        zeros_C = values_N.new_zeros(len(self.lengths_C))
        return zeros_C.index_add(0, self.completion_N, values_N)

    def to(self, device: torch.device) -> CompletionBatch:
        """Return the batch with its tensors on this device."""
        layout = self.tree_layout
        if layout is not None:
            layout = replace(layout, prefix_cu_seqlens=layout.prefix_cu_seqlens.to(device))
        return CompletionBatch(
            self.batch.to(device),
            self.completion_N.to(device),
            self.lengths_C.to(device),
            self.group_indices,
            layout,
        )


@dataclass(frozen=True)
class GroupLayout:
    """The layout of groups in micro-batches, which does not change results."""

    packing: bool = True
    """Concatenate the rows; False: pad them to a rectangle."""
    share_prompts: bool = True
    """Compute each prompt once; has no effect without packing."""

    def count_tokens(self, group: CompletionGroup) -> int:
        """Return the number of tokens that the model computes for the group."""
        if self.packing and self.share_prompts:
            return len(group.prompt) - 1 + group.completion_tokens
        return len(group.prompt) * len(group.completions) + group.completion_tokens

    def micro_batches(
        self, groups: Sequence[CompletionGroup], rows: Sequence[int], budget: int
    ) -> Iterator[CompletionBatch]:
        """Yield micro-batches of the groups at the indices ``rows``, within ``budget`` tokens each.

        If a group has more tokens, the budget is raised to the largest group.
        """
        if not rows:
            return
        # A group is never split. Padded, each of its completions costs as much as the longest.
        sizes = [
            self.count_tokens(groups[row])
            if self.packing
            else len(groups[row].completions) * groups[row].longest_sequence
            for row in rows
        ]
        split = pack if self.packing else padded_batches
        for members in split(sizes, max(budget, *sizes)):
            yield self.collate(groups, [rows[i] for i in members])

    def collate(self, groups: Sequence[CompletionGroup], rows: Sequence[int]) -> CompletionBatch:
        """Return one micro-batch with the groups at the indices ``rows``."""
        chosen = [groups[row] for row in rows]
        lengths = [len(completion) for group in chosen for completion in group.completions]
        if self.packing and self.share_prompts:
            batch, layout = _collate_tree(chosen, rows)
        else:
            layout = None
            examples = [
                Example(
                    [*group.prompt, *completion],
                    np.arange(len(group.prompt) + len(completion)) >= len(group.prompt),
                )
                for group in chosen
                for completion in group.completions
            ]
            batch = collate(examples, range(len(examples)), packed=self.packing)
        lengths_C = torch.tensor(lengths)
        completion_N = torch.repeat_interleave(torch.arange(len(lengths)), lengths_C)
        return CompletionBatch(batch, completion_N, lengths_C, tuple(rows), layout)


def completion_hidden(model: nn.Module, completions: CompletionBatch) -> Tensor:
    """Return the hidden states that predict the tokens of the completions, [N, D]."""
    layout = completions.tree_layout
    kwargs = {} if layout is None else {"tree_layout": layout}
    return hidden_at_targets(model, completions.batch, attention_kwargs=kwargs)


def completion_logprobs(model: nn.Module, completions: CompletionBatch) -> Tensor:
    """Return the log-probability of every completion token, [N], differentiable."""
    hidden_ND = completion_hidden(model, completions)
    return get_lm_head(model).logprobs(hidden_ND, completions.batch)


@torch.no_grad()
def score_groups(
    model: nn.Module, groups: Sequence[CompletionGroup], layout: GroupLayout, budget: int
) -> list[Tensor]:
    """Return, for each group, the summed log-probability of each completion, on the CPU.

    The model is in eval mode during the call.
    """
    device = unwrap_peft(model).device
    scores: list[Tensor] = [torch.empty(0)] * len(groups)
    with eval_mode(model):
        for cpu_batch in layout.micro_batches(groups, range(len(groups)), budget):
            batch = cpu_batch.to(device)
            sums_C = batch.sum_per_completion(completion_logprobs(model, batch)).cpu()
            counts = [len(groups[row].completions) for row in batch.group_indices]
            for row, part in zip(batch.group_indices, torch.split(sums_C, counts), strict=True):
                scores[row] = part
    return scores


def _collate_tree(
    groups: Sequence[CompletionGroup], rows: Sequence[int]
) -> tuple[MicroBatch, TreeLayout]:
    """Lay out prefixes and branches as shown at the top of this module."""
    prefixes = [np.asarray(group.prompt[:-1], dtype=np.int64) for group in groups]
    cu_seqlens = [0, *accumulate(map(len, prefixes))]
    ids, positions = [*prefixes], [np.arange(len(prefix)) for prefix in prefixes]
    targets, branches = [], []
    end = cu_seqlens[-1]
    for group, (start, stop) in zip(groups, pairwise(cu_seqlens), strict=True):
        for completion in group.completions:
            row = np.asarray([group.prompt[-1], *completion], dtype=np.int64)
            # Each token of the row predicts the next one, so the last token is only a target.
            ids.append(row[:-1])
            targets.append(row[1:])
            positions.append(np.arange(len(completion)) + (stop - start))
            branches.append(Branch(start, stop, end, end + len(completion)))
            end += len(completion)
    batch = MicroBatch(
        ids_BT=torch.from_numpy(np.concatenate(ids))[None],
        positions_BT=torch.from_numpy(np.concatenate(positions))[None],
        boundaries=None,
        mask_BT=None,
        trained_N=torch.arange(cu_seqlens[-1], end),  # all positions of the branches
        targets_N=torch.from_numpy(np.concatenate(targets)),
        weights_N=None,
        rows=tuple(rows),
        tokens=end,
        longest=max(group.longest_sequence for group in groups),
    )
    # A prompt of one token has an empty prefix, but packed attention does not accept empty rows.
    unique = sorted(set(cu_seqlens))
    longest_prefix = max((len(prefix) for prefix in prefixes), default=0)
    layout = TreeLayout(torch.tensor(unique, dtype=torch.int32), longest_prefix, tuple(branches))
    return batch, layout


def tokenize_pairs(records: Sequence[Record], template: Template) -> list[LabeledCompletionGroup]:
    """Return pairs as token ids: the prompt, then the chosen and the rejected completion.

    Raises:
        DataError: a record is not a pair.
    """
    require_pairs(records)
    return tokenize_preferences(records, template)


def require_pairs(records: Sequence[Record]) -> None:
    """Check that all records are pairs.

    Raises:
        DataError: a record is not a pair; the error names the first such record.
    """
    for record in records:
        if not isinstance(record, Preference):
            kind = type(record).__name__
            what = f"training needs a pair of answers, but this record is of type {kind}"
            hint = "use rows that contain a chosen and a rejected answer, or another technique"
            raise DataError(record.source, what, hint=hint)


def tokenize_preferences(
    records: Sequence[Record], template: Template
) -> list[LabeledCompletionGroup]:
    """Return pairs and labeled answers as token ids, with the labels of their completions.

    Raises:
        DataError: a record is of another kind.
    """
    answers = [(record, *each) for record in records for each in _labeled_answers(record)]
    exchanges = template.encode_exchanges(
        [last_exchange(record)[0] for record, _, _ in answers],
        [answer for _, answer, _ in answers],
        [record.source for record, _, _ in answers],
    )
    encoded = iter(exchanges)
    groups = []
    for record in records:
        labels = tuple(label for _, label in _labeled_answers(record))
        prompts, completions = zip(*islice(encoded, len(labels)), strict=True)
        groups.append(LabeledCompletionGroup(prompts[0], completions, labels))
    return groups


def _labeled_answers(record: Record) -> Sequence[tuple[str, bool]]:
    match record:
        case Preference():
            return (record.chosen, True), (record.rejected, False)
        case UnpairedPreference():
            return ((record.completion, record.label),)
        case _:
            kind = type(record).__name__
            raise DataError(
                record.source,
                "training needs a pair of answers or a labeled answer, but this record is of type "
                f"{kind}",
                hint="use rows that contain such answers, or another technique",
            )


def collate_final_tokens(
    layout: GroupLayout, groups: Sequence[CompletionGroup], rows: Sequence[int], budget: int
) -> Iterator[CompletionBatch]:
    """Yield micro-batches whose loss positions are the last tokens of the completions, N = C.

    A reward model reads the state *at* a completion's last token, but the layouts select states
    that *predict* a token, one position earlier. So the last token of each completion is repeated::

        completion    a  b  c        extended    a  b  c  c
                            ^                          ^  predicts the repeated c: same state

    The repeated token is only a target, so the model does not compute it where prompts are shared.
    """
    extended = [
        CompletionGroup(
            group.prompt, tuple([*completion, completion[-1]] for completion in group.completions)
        )
        for group in (groups[row] for row in rows)
    ]
    for completions in layout.micro_batches(extended, range(len(extended)), budget):
        last_C = completions.lengths_C.cumsum(0) - 1
        batch = replace(
            completions.batch,
            trained_N=completions.batch.trained_N[last_C],
            targets_N=completions.batch.targets_N[last_C],
        )
        yield replace(
            completions,
            batch=batch,
            completion_N=torch.arange(len(last_C)),
            group_indices=tuple(rows[i] for i in completions.group_indices),
        )
