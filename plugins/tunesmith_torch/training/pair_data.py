"""The data that preference training (DPO and others) and reward models share.

Both train on pairs: a prompt, the chosen and the rejected completion. A pair is a
:class:`~tunesmith_torch.prefix.completion_groups.CompletionGroup` of two, and a micro-batch lays
its pairs out in order, chosen before rejected. With ``share_prompts`` each prompt is computed once
for both of its completions; otherwise it is repeated::

    shared        prompt 0 | prompt 1 | chosen 0 | rejected 0 | chosen 1 | rejected 1
    not shared    prompt 0  chosen 0 | prompt 0  rejected 0 | prompt 1  chosen 1 | ...

A shared prompt is visible to its own completions only
(:mod:`tunesmith_torch.kernels.tree_attention`).

In both layouts the completions of a micro-batch alternate: ``[0::2]`` are the chosen ones,
``[1::2]`` the rejected ones.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.events import JSON, Notice
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.prefix.completion_groups import CompletionGroup, GroupLayout, tokenize_pairs
from tunesmith_torch.prefix.prefix_check import Report, can_share_prefix
from tunesmith_torch.training.loop import BatchCounts


@dataclass(frozen=True)
class PairData:
    """Tokenized pairs, and the layout of their micro-batches."""

    pairs: Sequence[CompletionGroup]
    layout: GroupLayout

    @classmethod
    def for_model(
        cls,
        pairs: Sequence[CompletionGroup],
        adapted: AdaptedModel,
        options: PairOptions,
        report: Report = lambda text: None,
    ) -> PairData:
        """Return the pairs in the layout that the options ask for, as far as the model can.

        ``report`` receives the reason if the model cannot share prompts.
        """
        sharing = options.packing and options.share_prompts
        # A reward model reads the token after the last one, too.
        longest = max((pair.longest_sequence for pair in pairs), default=0) + 1
        sharing = sharing and can_share_prefix(adapted.model, longest, report)
        return cls(pairs, GroupLayout(options.packing, sharing))

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the tokens of the pairs as laid out; the loss divisor is the number of pairs."""
        tokens = int(np.sum([self.layout.count_tokens(self.pairs[row]) for row in rows]))
        trained = int(np.sum([self.pairs[row].completion_tokens for row in rows]))
        return BatchCounts(tokens=tokens, trained_tokens=trained, loss_divisor=len(rows))

    @property
    def totals(self) -> BatchCounts:
        """The counts of all pairs."""
        return self.counts(range(len(self.pairs)))

    @property
    def details(self) -> JSON:
        """Facts about the layout, for events."""
        return {"shared_prompts": self.layout.share_prompts}


def pair_rows(pairs: Sequence[CompletionGroup]) -> Iterator[Sequence[int]]:
    """Yield the token ids of pairs: the prompt, then both completions."""
    for pair in pairs:
        yield pair.prompt
        yield from pair.completions


def fitting_pairs(job: Job[Any], template: Template, limit: int) -> list[CompletionGroup]:
    """Tokenize all preferences and keep those of at most ``limit`` tokens; report the others.

    Raises:
        DataError: a record is not a preference, or no pair fits.
    """
    groups = tokenize_pairs(job.train, template)
    fitting = [group for group in groups if group.longest_sequence <= limit]
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"no pair can be learned from: none of {len(groups)} has at most {limit} tokens",
            hint="raise technique.max_length, or shorten the rows",
        )
    if len(fitting) < len(groups):
        left_out = f"{len(groups) - len(fitting)} of {len(groups)} pairs are left out of training"
        text = f"{left_out}: longer than {limit} tokens"
        job.emit(Notice(level="warning", source="data", message=text))
    return fitting
