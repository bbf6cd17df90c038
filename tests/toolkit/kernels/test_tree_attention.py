"""Tree attention equals causal attention over each prefix followed by one branch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.kernels.tree_attention import Branch, TreeLayout, tree_attention

H, K, D = 4, 2, 8
PREFIXES = (5, 3)
BRANCHES = ((0, 4), (0, 1), (0, 7), (1, 2), (1, 6))
"""Prefix and length of each branch, in the order of the micro-batch."""


def layout() -> TreeLayout:
    ends = torch.tensor([0, *PREFIXES]).cumsum(0)
    branches, start = [], int(ends[-1])
    for prefix, length in BRANCHES:
        span = int(ends[prefix]), int(ends[prefix + 1])
        branches.append(Branch(*span, start, start + length))
        start += length
    return TreeLayout(ends.to(torch.int32), max(PREFIXES), tuple(branches))


def tensors() -> list[Tensor]:
    torch.manual_seed(0)
    T = layout().branches[-1].stop
    return [torch.randn(1, heads, T, D, requires_grad=True) for heads in (H, K, K)]


def expected(query: Tensor, key: Tensor, value: Tensor, tree: TreeLayout) -> Tensor:
    """The same by one row for each branch, [1, T, H, d]; a prefix is read off its first branch."""
    out: list[Tensor | None] = [None] * query.shape[2]
    for branch in tree.branches:
        rows = [*range(*branch[:2]), *range(*branch[2:])]
        q, k, v = (x[:, :, rows] for x in (query, key, value))
        row = scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)
        for index, token in enumerate(rows):
            out[token] = row[:, :, index] if out[token] is None else out[token]
    return torch.stack([token for token in out if token is not None], 1)


def attend(query: Tensor, key: Tensor, value: Tensor, **settings: object) -> Tensor:
    module = nn.Module()
    module.is_causal = True  # type: ignore[assignment]
    out, _ = tree_attention(module, query, key, value, None, tree_layout=layout(), **settings)
    return out


def test_each_branch_sees_its_prefix_and_itself_alone() -> None:
    query, key, value = tensors()
    out, reference = attend(query, key, value), expected(query, key, value, layout())
    torch.testing.assert_close(out, reference, rtol=1e-5, atol=1e-5)
    above = torch.randn_like(out)
    ours = torch.autograd.grad(out, [query, key, value], above)
    theirs = torch.autograd.grad(reference, [query, key, value], above)
    for gradient, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(gradient, other, rtol=1e-4, atol=1e-5)


def test_grouped_branches_give_what_single_branches_give() -> None:
    tree = layout()
    assert [len(group) for group in tree.query_groups(True)] == [3, 2]
    assert [len(group) for group in tree.query_groups(False)] == [1] * len(BRANCHES)
    assert tree.prefix_tokens == sum(PREFIXES)
    assert tree.prefix_spans == [(0, 5), (5, 8)]
    assert tree.longest_sequence == 12


@pytest.mark.parametrize(
    "settings", [{"softcap": 2.0}, {"sliding_window": 4}, {"dropout": 0.1}], ids=str
)
def test_what_it_does_not_compute_is_refused(settings: dict[str, object]) -> None:
    name = next(iter(settings))
    with pytest.raises(EnvironmentProblem, match=name):
        attend(*tensors(), **settings)


def test_a_window_that_is_longer_than_every_branch_is_fine() -> None:
    torch.testing.assert_close(attend(*tensors(), sliding_window=12), attend(*tensors()))
