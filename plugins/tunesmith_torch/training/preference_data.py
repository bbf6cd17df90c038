"""Tokenize pairs and labeled answers, and lay them out, for preference and reward training.

A row is a prompt with labeled completions, a
:class:`~tunesmith_torch.prefix.completion_groups.LabeledCompletionGroup`. A pair has a chosen and a
rejected completion; a labeled answer has only one. A micro-batch lays its rows out in order. With
``share_prompts`` each prompt is computed once for both completions of a pair; otherwise it is
repeated::

    shared        prompt 0 | prompt 1 | chosen 0 | rejected 0 | chosen 1 | rejected 1
    not shared    prompt 0  chosen 0 | prompt 0  rejected 0 | prompt 1  chosen 1 | ...

Only its own completions see a shared prompt (:mod:`tunesmith_torch.kernels.tree_attention`).

In both layouts, the completions of a micro-batch of pairs alternate: ``[0::2]`` are chosen,
``[1::2]`` rejected.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tunesmith.contracts import Job
from tunesmith.errors import DataError
from tunesmith.events import JSON
from tunesmith.text import format_count
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.options.preference import PairOptions
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    LabeledCompletionGroup,
    require_pairs,
)
from tunesmith_torch.prefix.group_store import GroupStore, build_group_store
from tunesmith_torch.prefix.prefix_check import Report, can_share_prefix
from tunesmith_torch.training.loop import BatchCounts
from tunesmith_torch.training.skipped_rows import (
    check_skipped_share,
    describe_remedy,
    report_skipped,
)

__all__ = [
    "PreferenceData",
    "list_group_tokens",
    "tokenize_fitting_groups",
    "tokenize_fitting_pairs",
]


@dataclass(frozen=True)
class PreferenceData:
    """Tokenized pairs and labeled answers, with the layout of their micro-batches."""

    groups: Sequence[LabeledCompletionGroup]
    layout: GroupLayout

    @classmethod
    def for_model(
        cls,
        groups: Sequence[LabeledCompletionGroup],
        adapted: AdaptedModel,
        options: PairOptions,
        report: Report = lambda text: None,
    ) -> PreferenceData:
        """Return the groups in the layout that the options ask for, if the model supports it.

        ``report`` receives the reason if the model cannot share prompts.
        """
        sharing = options.packing and options.share_prompts
        # A reward model appends one more token (see collate_final_tokens).
        longest = max((group.longest_sequence for group in groups), default=0) + 1
        sharing = sharing and can_share_prefix(adapted.model, longest, report)
        return cls(groups, GroupLayout(options.packing, sharing))

    @property
    def has_pairs_only(self) -> bool:
        """True if every group is a pair."""
        return all(len(group.completions) == 2 for group in self.groups)

    def counts(self, rows: Sequence[int]) -> BatchCounts:
        """Return the token counts of these groups; the loss divisor is the number of groups."""
        tokens = int(np.sum([self.layout.count_tokens(self.groups[row]) for row in rows]))
        trained = int(np.sum([self.groups[row].completion_tokens for row in rows]))
        return BatchCounts(tokens=tokens, trained_tokens=trained, loss_divisor=len(rows))

    def completion_titles(self, rows: Sequence[int]) -> list[str]:
        """Return a title for each completion of these groups, such as "row 1, chosen"."""
        names = {2: ("rejected", "chosen"), 1: ("bad", "good")}
        return [
            f"row {number}, {names[len(self.groups[row].labels)][label]}"
            for number, row in enumerate(rows, 1)
            for label in self.groups[row].labels
        ]

    def completion_count(self, rows: Sequence[int]) -> int:
        """Return the number of completions of these groups."""
        return sum(len(self.groups[row].completions) for row in rows)

    @property
    def totals(self) -> BatchCounts:
        """Token counts of all groups together, and the divisor of their loss."""
        return self.counts(range(len(self.groups)))

    @property
    def details(self) -> JSON:
        """Facts about the layout, for events."""
        return {"shared_prompts": self.layout.share_prompts}


def list_group_tokens(groups: Sequence[CompletionGroup]) -> Iterator[Sequence[int]]:
    """Yield the token ids of groups: the prompt, then each completion."""
    for group in groups:
        yield group.prompt
        yield from group.completions


def tokenize_fitting_groups(job: Job[Any], template: Template, limit: int) -> GroupStore:
    """Tokenize all preferences and keep those of at most ``limit`` tokens; report the others.

    Raises:
        DataError: a record is neither a pair nor a labeled answer, no records fit, or the share of
            records that are too long exceeds ``max_skipped``.
    """
    fitting = build_group_store(job.train, template, limit)
    total, remedy = len(job.train), describe_remedy(limit, job.config.max_length)
    report_skipped(job, fitting.skipped)
    if not fitting:
        raise DataError(
            job.train[0].source if job.train else "data",
            f"no rows can be used: {format_count(total, 'row')} with more than {limit} tokens",
            hint=remedy,
        )
    check_skipped_share(fitting.skipped, total, job.config.max_skipped, remedy)
    return fitting


def tokenize_fitting_pairs(job: Job[Any], template: Template, limit: int) -> GroupStore:
    """Return the pairs of at most ``limit`` tokens, like :func:`tokenize_fitting_groups`.

    Raises:
        DataError: a record is not a pair, no pairs fit, or the share of pairs that are too long
            exceeds ``max_skipped``.
    """
    require_pairs(job.train)
    return tokenize_fitting_groups(job, template, limit)
