"""Tree attention: several completions attend to one prompt, but not to each other.

Shapes: T tokens of a micro-batch, H heads, K key heads, G = H / K, n queries of some branches, P
tokens of their prefix, S = P + n keys, d head width.

In a causal model, the keys and values of a prompt do not depend on what follows. So a micro-batch
holds each prompt once, as a *prefix*, and each of its completions as a *branch* of that prefix.
Prefixes come first, then all branches, in one sequence of T tokens::

    prefix 0 | prefix 1 | branch 0.0 | branch 0.1 | branch 1.0 | branch 1.1

                    keys   p0   p1   0.0  0.1  1.0  1.1
    queries prefix 0       c    .    .    .    .    .      c  causal: up to the query itself
            prefix 1       .    c    .    .    .    .      #  all keys
            branch 0.0     #    .    c    .    .    .      .  not seen
            branch 0.1     #    .    .    c    .    .
            branch 1.0     .    #    .    .    c    .
            branch 1.1     .    #    .    .    .    c

The positions of a branch continue those of its prefix, so each completion gets the same hidden
states as in a separate row. Gradients flow into the prefix from all its branches.
:mod:`tunesmith_torch.prefix.common_prefix` derives why both are exact.

Prefixes are packed rows (:mod:`tunesmith_torch.kernels.varlen_attention`). On a CPU, short branches
of one prefix share a product, with a mask that keeps them separate, because products for ten tokens
are mostly overhead. Without a :class:`TreeLayout` this is packed attention.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels.block_attention import BLOCK_SIZE, row_bias
from tunesmith_torch.kernels.packed_mask import packed_mask
from tunesmith_torch.kernels.varlen_attention import packed_attention

ATTENTION_NAME = "tunesmith_tree"


class Branch(NamedTuple):
    """The token indices of a branch and of its prefix in the micro-batch."""

    prefix_start: int
    prefix_stop: int
    start: int
    stop: int


@dataclass(frozen=True)
class TreeLayout:
    """The prefixes and branches of a micro-batch."""

    prefix_cu_seqlens: Tensor
    """The start of each prefix, and the end of the last one (int32)."""
    longest_prefix: int
    """Number of tokens in the longest prefix."""
    branches: tuple[Branch, ...]
    """Branches in order and without gaps, from the last prefix to the end of the sequence."""
    longest_row: int = 0
    """Number of tokens in the longest row of later micro-batches, for a check before training; 0:
    unknown."""

    @property
    def prefix_tokens(self) -> int:
        """Number of tokens in all prefixes."""
        return self.branches[0].start

    @cached_property
    def prefix_spans(self) -> list[tuple[int, int]]:
        """Start and stop of each prefix, in order."""
        return list(dict.fromkeys((b.prefix_start, b.prefix_stop) for b in self.branches))

    def query_groups(self, merge: bool) -> list[list[Branch]]:
        """Group the branches whose attention is computed in one product.

        With ``merge``, neighboring branches of one prefix form groups up to the block size.
        Otherwise each branch is a group.
        """
        groups: list[list[Branch]] = []
        for branch in self.branches:
            last = groups[-1] if groups and merge else None
            if last and last[0][:2] == branch[:2] and branch.stop - last[0].start <= BLOCK_SIZE:
                last.append(branch)
            else:
                groups.append([branch])
        return groups

    @property
    def longest_sequence(self) -> int:
        """Number of tokens in the longest prefix and branch together."""
        lengths = (b.prefix_stop - b.prefix_start + b.stop - b.start for b in self.branches)
        return max(self.longest_row, *lengths)


def register_tree_attention() -> str:
    """Register tree attention with transformers, which may be repeated; return its name."""
    AttentionInterface.register(ATTENTION_NAME, tree_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, packed_mask)
    return ATTENTION_NAME


def tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    tree_layout: TreeLayout | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """Compute tree attention, [1, H, T, d] to [1, T, H, d]; packed attention without a tree.

    Raises:
        EnvironmentProblem: the model's attention is more than a causal softmax.
    """
    if tree_layout is None:
        return packed_attention(module, query, key, value, attention_mask, **kwargs)
    _check_supported(tree_layout, kwargs)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    outs = []
    P = tree_layout.prefix_tokens
    if P:
        prefix_out, _ = packed_attention(
            module,
            query[:, :, :P],
            key[:, :, :P],
            value[:, :, :P],
            attention_mask,
            cu_seq_lens_q=tree_layout.prefix_cu_seqlens,
            max_length_q=tree_layout.longest_prefix,
            **kwargs,
        )
        outs.append(prefix_out)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    # torch.split, not slices: the gradient of each slice would be a full-size tensor that is nearly
    # all zeros, while the gradient of a split is a single concatenation.
    spans, groups = tree_layout.prefix_spans, tree_layout.query_groups(query.is_cpu)
    lengths = [group[-1].stop - group[0].start for group in groups]
    # keys and values: one part per prefix, then one per group; queries: one part per group
    sizes = [stop - start for start, stop in spans] + lengths
    keys, values = (torch.split(x[0], sizes, 1) for x in (key, value))
    _, *queries = torch.split(query[0], [P, *lengths], 1)
    part_of_span = {span: n for n, span in enumerate(spans)}
    for n, (group, q_HTd) in enumerate(zip(groups, queries, strict=True), len(spans)):
        prefix_n = part_of_span[group[0].prefix_start, group[0].prefix_stop]
        row_lengths = tuple(branch.stop - branch.start for branch in group)
        pairs = (keys[prefix_n], keys[n]), (values[prefix_n], values[n])
        outs.append(_attend_branches(q_HTd, *pairs, row_lengths, scale))
    return torch.cat(outs, 1), None


def _check_supported(layout: TreeLayout, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    unsupported = [n for n in ("softcap", "s_aux", "position_bias") if kwargs.get(n) is not None]
    if window is not None and window < layout.longest_sequence:
        tokens = f"{layout.longest_sequence} tokens"
        raise _sharing_problem(f"a `sliding_window` of {window}, but the longest row has {tokens}")
    if kwargs.get("dropout"):
        unsupported.append("dropout")
    if unsupported:
        raise _sharing_problem(f"`{unsupported[0]}`")


def _sharing_problem(feature: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the model's attention has {feature}", hint="set technique.packing = false"
    )


def _attend_branches(
    q_Hnd: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    row_lengths: tuple[int, ...],
    scale: float,
) -> Tensor:
    """Return the attention output of branches of one prefix, [1, n, H, d].

    Keys and values come in two parts, from the prefix and from the branches. A query sees all keys
    of the prefix and its own branch up to itself (:func:`row_bias`). The G queries of a key head
    are rows of one product, M = G * n.
    """
    (H, n, d), (K, P, _) = q_Hnd.shape, keys[0].shape
    q_KMd = q_Hnd.reshape(K, H // K * n, d)
    k_KSd, v_KSd = torch.cat(keys, 1), torch.cat(values, 1)
    bias_MS = row_bias(row_lengths, P, H // K, q_KMd.dtype).to(q_KMd.device)
    z_KMS = torch.baddbmm(bias_MS, q_KMd, k_KSd.transpose(1, 2), alpha=scale)
    out_KMd = torch.bmm(torch.softmax(z_KMS, -1), v_KSd)
    return out_KMd.view(H, n, d).transpose(0, 1)[None]
