"""In bf16 on a CPU, products have few shapes, and the zeros that pad them change no result."""

from __future__ import annotations

import random
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from tunesmith_torch.data.packing import Example, collate, pad_to_multiple
from tunesmith_torch.kernels.block_attention import AttentionSpec, block_attention
from tunesmith_torch.kernels.last_layer import PositionIndex
from tunesmith_torch.kernels.padding import MULTIPLE, count_padding
from tunesmith_torch.kernels.varlen_attention import register_varlen_attention
from tunesmith_torch.losses.cross_entropy import linear_cross_entropy, token_logprobs
from tunesmith_torch.losses.selected_positions import get_lm_head, hidden_at_targets
from tunesmith_torch.testing.tiny_model import build_tiny_model

PRODUCTS = ("mm", "bmm", "baddbmm")


class ProductSizes(TorchDispatchMode):
    """Collects the sizes of all matrices that are multiplied."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in PRODUCTS:
            self.found |= {size for x in args[-2:] for size in x.shape[-2:]}
        return func(*args, **(kwargs or {}))


def test_only_other_types_and_devices_are_not_padded() -> None:
    bf16 = torch.zeros(1, dtype=torch.bfloat16)
    assert [count_padding(bf16, n) for n in (1, 31, 32, 33, 64)] == [31, 1, 0, 31, 0]
    assert not any(count_padding(x, 5) for x in (bf16.float(), bf16.double(), bf16.to("meta")))


def test_products_of_a_training_step_have_padded_sizes() -> None:
    """Every size is one of the model's, or a multiple of 32 tokens for each query head."""
    model = build_tiny_model("llama").bfloat16().train()
    model.set_attn_implementation(register_varlen_attention())
    source = random.Random(0)
    sizes = {size for parameter in model.parameters() for size in parameter.shape}
    sizes |= {model.config.head_dim, 1}
    for _ in range(4):
        rows = [
            Example([source.randrange(1, 50) for _ in range(n)], [i > n // 2 for i in range(n)])
            for n in source.sample(range(3, 300), 5)
        ]
        batch = pad_to_multiple(collate(rows, range(len(rows)), packed=True))
        with ProductSizes() as products:
            hidden_ND = hidden_at_targets(model, batch)
            get_lm_head(model).loss(hidden_ND, batch).backward()
        assert hidden_ND.shape[0] == len(batch.targets_N)
        assert len(products.found) > len(sizes & products.found)
        assert all(size in sizes or size % MULTIPLE == 0 for size in products.found)


@pytest.mark.parametrize("window", [None, 50])
@pytest.mark.parametrize("lengths", [(300,), (5, 1, 70, 131, 12), (33, 90, 4), (128, 64, 257)])
def test_padded_attention_is_as_close_as_without_padding(
    lengths: tuple[int, ...], window: int | None
) -> None:
    torch.manual_seed(0)
    shapes = [(1, heads, sum(lengths), 16) for heads in (4, 2, 2)]
    inputs = [torch.randn(shape).bfloat16() for shape in shapes]
    grad_output = torch.randn(1, sum(lengths), 4, 16).bfloat16()
    cu_seqlens = (0, *accumulate(lengths))

    def compute(dtype: torch.dtype) -> list[Tensor]:
        leaves = [x.to(dtype).requires_grad_() for x in inputs]
        out = block_attention(*leaves, cu_seqlens, AttentionSpec(0.25, window, None, 0.0))
        return [out.detach(), *torch.autograd.grad(out, leaves, grad_output.to(dtype))]

    for found, exact in zip(compute(torch.bfloat16), compute(torch.float64), strict=True):
        assert found.shape == exact.shape
        assert (found.double() - exact).norm() / exact.norm() < 0.02


def test_padded_positions_get_no_gradient_and_give_none() -> None:
    torch.manual_seed(0)
    index = PositionIndex(torch.tensor([1, 4, 5]), 7)
    x_PD = torch.randn(7, 2).bfloat16().requires_grad_()
    x_ND = index.gather(x_PD)
    assert x_ND.shape == (MULTIPLE, 2) and torch.equal(x_ND[:3], x_PD[[1, 4, 5]])
    assert not x_ND[3:].any()
    y_PD = index.scatter(x_ND + 1)  # as a bias changes the padding
    expected_PD = torch.zeros(7, 2).bfloat16()
    expected_PD[[1, 4, 5]] = x_PD[[1, 4, 5]].detach() + 1
    assert torch.equal(y_PD, expected_PD)
    weights_PD = torch.randn(7, 2).bfloat16()
    (grad_PD,) = torch.autograd.grad(y_PD, x_PD, weights_PD)
    chosen_P1 = torch.tensor([0, 1, 0, 0, 1, 1, 0])[:, None].bool()
    assert torch.equal(grad_PD, torch.where(chosen_P1, weights_PD, torch.zeros_like(weights_PD)))


@pytest.mark.parametrize("weighted", [False, True])
def test_a_padded_loss_is_that_of_its_positions(weighted: bool) -> None:
    """Also its gradients, against the rows of a multiple of which nothing is padded."""
    torch.manual_seed(0)
    hidden_ND = torch.randn(MULTIPLE + 5, 8).bfloat16().requires_grad_()
    weight_VD = torch.randn(40, 8).bfloat16().requires_grad_()
    bias_V = torch.randn(40).bfloat16().requires_grad_()
    labels_N = torch.randint(40, (len(hidden_ND),))
    weights_N = torch.rand(len(hidden_ND)) if weighted else None
    leaves = hidden_ND, weight_VD, bias_V
    loss = linear_cross_entropy(hidden_ND, weight_VD, labels_N, bias_V=bias_V, weights_N=weights_N)
    wide = [x.detach().double().requires_grad_() for x in leaves]
    exact = linear_cross_entropy(*wide[:2], labels_N, bias_V=wide[2], weights_N=weights_N)
    assert abs(loss.item() / exact.item() - 1) < 0.01
    for found, expected in zip(
        torch.autograd.grad(loss, leaves), torch.autograd.grad(exact, wide), strict=True
    ):
        assert found.shape == expected.shape
        assert (found.double() - expected).norm() / expected.norm() < 0.02
    assert token_logprobs(hidden_ND, weight_VD, labels_N).shape == labels_N.shape
