"""Fused head and loss against the reference: all logits, then F.cross_entropy."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tunesmith_torch.losses import cross_entropy
from tunesmith_torch.losses.cross_entropy import linear_cross_entropy, token_logprobs

N, V, D = 23, 57, 16
CURVES = [(None, 1.0), (5.0, 1.0), (None, 0.3), (3.0, 1.7)]


def make(dtype: torch.dtype = torch.float64, n: int = N) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    hidden_ND = torch.randn(n, D, dtype=dtype).requires_grad_()
    weight_VD = torch.randn(V, D, dtype=dtype).requires_grad_()
    bias_V = torch.randn(V, dtype=dtype).requires_grad_()
    return hidden_ND, weight_VD, bias_V, torch.randint(0, V, (n,))


def reference_nll(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    labels_N: Tensor,
    bias_V: Tensor | None = None,
    softcap: float | None = None,
    logit_scale: float = 1.0,
) -> Tensor:
    logits_NV = F.linear(hidden_ND, weight_VD, bias_V) * logit_scale
    if softcap is not None:
        logits_NV = torch.tanh(logits_NV / softcap) * softcap
    return F.cross_entropy(
        logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32)),
        labels_N,
        reduction="none",
    )


@pytest.mark.parametrize("chunk", [1, 3 * V * 8, 2**26])
@pytest.mark.parametrize(("softcap", "scale"), CURVES)
def test_sum_and_gradients_equal_the_reference(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, scale: float, chunk: int
) -> None:
    """For several chunk sizes: a missing position, sign or scale would show here."""
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", chunk)
    monkeypatch.setattr(cross_entropy, "BLOCK_BYTES", 2 * 4 * V)
    *inputs, labels_N = make()
    hidden_ND, weight_VD, bias_V = inputs
    weights_N = torch.rand(N, dtype=torch.float64)
    fused = linear_cross_entropy(
        hidden_ND,
        weight_VD,
        labels_N,
        bias_V=bias_V,
        weights_N=weights_N,
        softcap=softcap,
        logit_scale=scale,
    )
    reference = (
        reference_nll(hidden_ND, weight_VD, labels_N, bias_V, softcap, scale) * weights_N
    ).sum()
    torch.testing.assert_close(fused, reference)
    for a, b in zip(
        torch.autograd.grad(fused * 0.7, inputs),
        torch.autograd.grad(reference * 0.7, inputs),
        strict=True,
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("chunk", [1, 2**26])
@pytest.mark.parametrize(("softcap", "scale"), CURVES)
def test_logprobs_gradcheck(
    monkeypatch: pytest.MonkeyPatch, softcap: float | None, scale: float, chunk: int
) -> None:
    monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", chunk)
    torch.manual_seed(0)
    hidden_ND, weight_VD, bias_V = (
        torch.randn(shape, dtype=torch.float64).requires_grad_() for shape in ((4, 3), (7, 3), (7,))
    )
    labels_N = torch.tensor([0, 6, 3, 3])

    def each(h: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return token_logprobs(h, w, labels_N, bias_V=b, softcap=softcap, logit_scale=scale)

    assert torch.autograd.gradcheck(each, (hidden_ND, weight_VD, bias_V))


def test_token_logprobs_accept_any_incoming_gradient() -> None:
    hidden_ND, weight_VD, _, labels_N = make()
    fused_N = token_logprobs(hidden_ND, weight_VD, labels_N)
    reference_N = -reference_nll(hidden_ND, weight_VD, labels_N)
    torch.testing.assert_close(fused_N, reference_N)
    inputs = hidden_ND, weight_VD
    fused, reference = (
        torch.autograd.grad(F.logsigmoid(x).square().sum(), inputs) for x in (fused_N, reference_N)
    )
    for a, b in zip(fused, reference, strict=True):
        torch.testing.assert_close(a, b)


def test_tied_weight_collects_both_gradients() -> None:
    _, weight_VD, _, labels_N = make()
    ids_N = torch.arange(N)
    for loss in (linear_cross_entropy, lambda h, w, y: reference_nll(h, w, y).sum()):
        weight_VD.grad, before = None, weight_VD.grad
        loss(torch.tanh(F.embedding(ids_N, weight_VD)), weight_VD, labels_N).backward()
    torch.testing.assert_close(before, weight_VD.grad)


@pytest.mark.parametrize("function", [linear_cross_entropy, token_logprobs])
def test_gradients_that_are_not_needed_are_not_computed(function, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    hidden_ND, weight_VD, _, labels_N = make(torch.float32)
    products = []
    mm = torch.mm

    def count(*args: Tensor, **kwargs: Tensor) -> Tensor:
        products.append(args)
        return mm(*args, **kwargs)

    monkeypatch.setattr(torch, "mm", count)
    with torch.no_grad():
        function(hidden_ND, weight_VD, labels_N)
    assert len(products) == 1
    function(hidden_ND, weight_VD.detach(), labels_N).sum().backward()
    assert hidden_ND.grad is not None
    assert len(products) - 1 == (2 if function is linear_cross_entropy else 3)
    products.clear()
    function(hidden_ND, weight_VD, labels_N).sum().backward()
    assert len(products) == (3 if function is linear_cross_entropy else 4)


def test_bf16_errors_are_not_larger_than_those_of_the_reference(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several chunks must not add errors, because they are added up in fp32."""
    *exact_inputs, _, labels_N = make(torch.float32, n=400)
    exact = reference_nll(*exact_inputs, labels_N).sum()
    exact_grads = torch.autograd.grad(exact, exact_inputs)
    inputs = [x.detach().bfloat16().requires_grad_() for x in exact_inputs]

    def relative_errors(loss: Tensor) -> list[float]:
        grads = torch.autograd.grad(loss, inputs)
        return [
            ((a.float() - b).norm() / b.norm()).item()
            for a, b in zip(grads, exact_grads, strict=True)
        ]

    reference = relative_errors(reference_nll(*inputs, labels_N).sum())
    for chunk in (1, 2**26):
        monkeypatch.setattr(cross_entropy, "CHUNK_BYTES", chunk)
        fused = linear_cross_entropy(*inputs, labels_N)
        assert fused.dtype == torch.float32
        torch.testing.assert_close(fused, exact, rtol=5e-3, atol=0)
        assert all(a < 1.2 * b for a, b in zip(relative_errors(fused), reference, strict=True))


@pytest.mark.parametrize("function", [linear_cross_entropy, token_logprobs])
def test_autocast_equals_an_explicit_cast(function) -> None:  # type: ignore[no-untyped-def]
    """An fp32 weight gets an fp32 gradient, also if backward runs outside autocast."""
    hidden_ND, weight_VD, _, labels_N = make(torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        inside = function(hidden_ND, weight_VD, labels_N)
    explicit = function(hidden_ND, weight_VD.bfloat16(), labels_N)
    assert torch.equal(inside, explicit)
    inside_grads = torch.autograd.grad(inside.sum(), (hidden_ND, weight_VD))
    for a, b in zip(
        inside_grads, torch.autograd.grad(explicit.sum(), (hidden_ND, weight_VD)), strict=True
    ):
        assert a.dtype == torch.float32
        assert torch.equal(a, b)


def test_loss_of_no_positions_is_zero() -> None:
    hidden_ND, weight_VD, _, labels_N = make(n=0)
    loss = linear_cross_entropy(hidden_ND, weight_VD, labels_N)
    loss.backward()
    assert loss.item() == 0
    assert weight_VD.grad is not None
    assert not weight_VD.grad.any()


def test_second_backward_is_refused() -> None:
    hidden_ND, weight_VD, _, labels_N = make()
    loss = linear_cross_entropy(hidden_ND, weight_VD, labels_N)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace"):
        loss.backward()


def test_no_step_in_bf16_converts_all_logits() -> None:
    """Conversions go through blocks: scatter_ would copy a chunk to fp32 and back."""
    hidden_ND = torch.randn(640, 8).bfloat16().requires_grad_()
    weight_VD = torch.randn(3000, 8).bfloat16().requires_grad_()
    labels_N = torch.randint(3000, (640,))
    with torch.profiler.profile(record_shapes=True) as profiler:
        linear_cross_entropy(hidden_ND, weight_VD, labels_N).backward()
    copied = [event.input_shapes[0] for event in profiler.events() if event.name == "aten::copy_"]
    assert copied and [640, 3000] not in copied
