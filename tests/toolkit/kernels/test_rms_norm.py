"""The fused RMSNorm gives the model's values and gradients and replaces only equal modules."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tunesmith_torch.kernels import rms_norm
from tunesmith_torch.kernels.rms_norm import FusedRMSNorm
from tunesmith_torch.testing.tiny_model import build_tiny_model


def llama_norm(width: int, dtype: torch.dtype) -> LlamaRMSNorm:
    torch.manual_seed(1)
    norm = LlamaRMSNorm(width, eps=1e-5).to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


def fuse(norm: nn.Module) -> nn.Module:
    parent = nn.Sequential(copy.deepcopy(norm))
    rms_norm.fuse_rms_norms(parent)
    return parent[0]


def result(norm: nn.Module, x: Tensor, grad_output: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(grad_output)
    assert x.grad is not None
    grads = [p.grad for p in norm.parameters() if p.grad is not None]
    return [y.detach(), x.grad, *grads]


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 4, 24)])
def test_gradients_pass_gradcheck(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64).requires_grad_()
    weight = torch.rand(24, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x, w: rms_norm._RMSNormFunction.apply(x, w, 1e-2), (x, weight)
    )


@pytest.mark.parametrize("trained", [True, False])
def test_values_and_gradients_equal_the_models_norm(trained: bool) -> None:
    norm = llama_norm(48, torch.float32).requires_grad_(trained)
    x, grad_output = torch.randn(2, 7, 48), torch.randn(2, 7, 48)
    expected, actual = result(norm, x, grad_output), result(fuse(norm), x, grad_output)
    assert len(actual) == len(expected) == 2 + trained
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_bf16_errors_are_not_larger_than_those_of_the_models_norm(size: float) -> None:
    norm = llama_norm(128, torch.bfloat16)
    torch.manual_seed(2)
    x, grad_output = (torch.randn(64, 128) * size).bfloat16(), torch.randn(64, 128).bfloat16()
    exact_results = result(copy.deepcopy(norm).double(), x.double(), grad_output.double())
    original, fused = result(norm, x, grad_output), result(fuse(norm), x, grad_output)
    for name, a, b, exact in zip(["y", "dx", "dw"], fused, original, exact_results, strict=True):
        fused_error, original_error = ((t.double() - exact).norm() / exact.norm() for t in (a, b))
        assert fused_error < 1.6 * original_error + 1e-5, (name, fused_error, original_error)
        assert a.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_model_keeps_its_parameter_names_and_logits(family: str) -> None:
    model = build_tiny_model(family)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    plain = copy.deepcopy(model)
    found = rms_norm.fuse_rms_norms(model)
    assert found == sum(type(m) is FusedRMSNorm for m in model.modules())
    assert found == sum("norm" in name for name, _ in model.named_parameters())
    assert rms_norm.fuse_rms_norms(model) == 0
    assert list(model.state_dict()) == list(plain.state_dict())
    ids_BT = torch.arange(3, 40)[None]
    torch.testing.assert_close(model(ids_BT).logits, plain(ids_BT).logits, rtol=1e-4, atol=1e-5)
    grads = []
    for one in (model, plain):
        one(ids_BT, labels=ids_BT).loss.backward()
        grads.append({name: p.grad for name, p in one.named_parameters()})
    for name, grad in grads[1].items():
        torch.testing.assert_close(grads[0][name], grad, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_norms_with_another_formula_are_not_replaced(dtype: torch.dtype) -> None:
    class HalfRMSNorm(LlamaRMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    class NoEpsRMSNorm(LlamaRMSNorm):
        """Ignores eps, so only small rows differ."""

        def forward(self, x: Tensor) -> Tensor:
            wide = x.float()
            scaled = wide * wide.pow(2).mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
            return self.weight * scaled.to(x.dtype)

    class Whitening(LlamaRMSNorm):
        pass

    others: list[Any] = [GemmaRMSNorm(16), HalfRMSNorm(16), NoEpsRMSNorm(16), nn.LayerNorm(16)]
    with torch.no_grad():
        assert rms_norm.fuse_rms_norms(nn.Sequential(*others, Whitening(16)).to(dtype)) == 0


def test_the_comparison_does_not_change_the_random_state() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    rms_norm.fuse_rms_norms(nn.Sequential(default_norm()))
    assert torch.equal(torch.rand(4), expected)


def default_norm() -> LlamaRMSNorm:
    return LlamaRMSNorm(16)
