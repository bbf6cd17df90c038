"""Attention where several answers see one prompt, and not each other.

Shapes: T tokens of a micro-batch, H heads, K key heads, G = H / K, n queries of some answers, P
tokens of their trunk, S = P + n, d head width.

A prompt with several answers need not be computed several times: keys and values of the prompt do
not depend on what follows. So a micro-batch holds all prompts first (*trunks*), then all answers
(*branches*)::

    trunk 0 | trunk 1 | answer 0.0 | answer 0.1 | answer 1.0 | answer 1.1

A trunk attends to itself, an answer to its trunk and to itself. On the CPU, short answers to one
trunk share their products, and the mask keeps them apart: products for ten tokens are mostly
overhead. Where the layout comes without branches, everything is left to
:mod:`tunesmith_torch.kernels.varlen_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels.block_attention import BLOCK, apart
from tunesmith_torch.kernels.packed_mask import packed_mask
from tunesmith_torch.kernels.varlen_attention import packed_attention

NAME = "tunesmith_branches"


class Branch(NamedTuple):
    """Where an answer and its trunk stand in the micro-batch."""

    trunk_start: int
    trunk_stop: int
    start: int
    stop: int


@dataclass(frozen=True)
class Branches:
    """The layout of a micro-batch."""

    trunk_cuts: Tensor
    """Where trunks start, and their end (int32)."""
    longest_trunk: int
    branches: tuple[Branch, ...]
    """In order, one after the other, from the trunks' end to the micro-batch's."""

    @property
    def trunks(self) -> int:
        """Tokens of all trunks."""
        return self.branches[0].start

    @property
    def trunk_spans(self) -> list[tuple[int, int]]:
        """Where each trunk starts and stops, in order."""
        return list(dict.fromkeys((b.trunk_start, b.trunk_stop) for b in self.branches))

    def groups(self, together: bool) -> list[list[Branch]]:
        """Neighbours with one trunk, as many as a block of attention holds, or each alone."""
        found: list[list[Branch]] = []
        for branch in self.branches:
            last = found[-1] if found and together else None
            if last and last[0][:2] == branch[:2] and branch.stop - last[0].start <= BLOCK:
                last.append(branch)
            else:
                found.append([branch])
        return found

    @property
    def longest(self) -> int:
        """Tokens of the longest trunk with its answer."""
        return max(b.trunk_stop - b.trunk_start + b.stop - b.start for b in self.branches)


def register() -> str:
    """Make the attention known to transformers. Doing so again is harmless."""
    AttentionInterface.register(NAME, branch_attention)
    AttentionMaskInterface.register(NAME, packed_mask)
    return NAME


def branch_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Any,
    branches: Branches | None = None,
    **kwargs: Any,
) -> tuple[Tensor, Tensor | None]:
    """[1, H, T, d] to [1, T, H, d]; without ``branches``, what packed attention does.

    Raises:
        EnvironmentProblem: the model's attention is more than a causal softmax.
    """
    if branches is None:
        return packed_attention(module, query, key, value, attention_mask, **kwargs)
    _check(branches, kwargs)
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    outs = []
    P = branches.trunks
    if P:
        trunk, _ = packed_attention(
            module,
            query[:, :, :P],
            key[:, :, :P],
            value[:, :, :P],
            attention_mask,
            cu_seq_lens_q=branches.trunk_cuts,
            max_length_q=branches.longest_trunk,
            **kwargs,
        )
        outs.append(trunk)
    scale = kwargs.get("scaling") or query.shape[-1] ** -0.5
    # Splits, not slices: the gradient of a slice is a whole tensor, nearly all of it zeros.
    spans, groups = branches.trunk_spans, branches.groups(query.is_cpu)
    lengths = [group[-1].stop - group[0].start for group in groups]
    sizes = [stop - start for start, stop in spans] + lengths
    keys, values = (torch.split(x[0], sizes, 1) for x in (key, value))
    _, *queries = torch.split(query[0], [P, *lengths], 1)
    number = {span: n for n, span in enumerate(spans)}
    for n, (group, q_HTd) in enumerate(zip(groups, queries, strict=True), len(spans)):
        trunk_n = number[group[0].trunk_start, group[0].trunk_stop]
        rows = tuple(branch.stop - branch.start for branch in group)
        pairs = (keys[trunk_n], keys[n]), (values[trunk_n], values[n])
        outs.append(_answers(q_HTd, *pairs, rows, scale))
    return torch.cat(outs, 1), None


def _check(branches: Branches, kwargs: dict[str, Any]) -> None:
    window = kwargs.get("sliding_window")
    special = [n for n in ("softcap", "s_aux", "position_bias") if kwargs.get(n) is not None]
    if window is not None and window < branches.longest:
        special.append("sliding_window")
    if kwargs.get("dropout"):
        special.append("dropout")
    if special:
        raise EnvironmentProblem(
            f"shared prompts: the model's attention uses `{special[0]}`",
            hint="set share_prompts = false",
        )


def _answers(
    q_Hnd: Tensor,
    keys: tuple[Tensor, Tensor],
    values: tuple[Tensor, Tensor],
    rows: tuple[int, ...],
    scale: float,
) -> Tensor:
    """Attention of answers to one trunk, [1, n, H, d]. Queries of one key head share a product.

    Keys and values come in two parts: those of the trunk, and the answers' own.
    """
    (H, n, d), (K, P, _) = q_Hnd.shape, keys[0].shape
    q_KMd = q_Hnd.reshape(K, H // K * n, d)
    k_KSd, v_KSd = torch.cat(keys, 1), torch.cat(values, 1)
    bias_MS = apart(rows, P, H // K, q_KMd.dtype).to(q_KMd.device)
    z_KMS = torch.baddbmm(bias_MS, q_KMd, k_KSd.transpose(1, 2), alpha=scale)
    out_KMd = torch.bmm(torch.softmax(z_KMS, -1), v_KSd)
    return out_KMd.view(H, n, d).transpose(0, 1)[None]
