"""The lean norm: the model's own values and gradients, its names, and only where it belongs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from tunesmith_torch.kernels import rms_norm
from tunesmith_torch.kernels.rms_norm import LeanNorm
from tunesmith_torch.testing.tiny_model import tiny_model


def llama_norm(width: int, dtype: torch.dtype) -> LlamaRMSNorm:
    torch.manual_seed(1)
    norm = LlamaRMSNorm(width, eps=1e-5).to(dtype)
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    return norm


def fused_kernels(norm: nn.Module) -> nn.Module:
    parent = nn.Sequential(copy.deepcopy(norm))
    rms_norm.use(parent)
    return parent[0]


def result(norm: nn.Module, x: Tensor, above: Tensor) -> list[Tensor]:
    x = x.clone().requires_grad_()
    y = norm(x)
    y.backward(above)
    assert x.grad is not None
    grads = [p.grad for p in norm.parameters() if p.grad is not None]
    return [y.detach(), x.grad, *grads]


@pytest.mark.parametrize("shape", [(5, 24), (2, 3, 4, 24)])
def test_gradients_are_those_of_the_formula(shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(*shape, dtype=torch.float64).requires_grad_()
    weight = torch.rand(24, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, w: rms_norm._Norm.apply(x, w, 1e-2), (x, weight))


@pytest.mark.parametrize("trained", [True, False])
def test_values_and_gradients_are_the_models_own(trained: bool) -> None:
    norm = llama_norm(48, torch.float32).requires_grad_(trained)
    x, above = torch.randn(2, 7, 48), torch.randn(2, 7, 48)
    wanted, got = result(norm, x, above), result(fused_kernels(norm), x, above)
    assert len(got) == len(wanted) == 2 + trained
    for a, b in zip(got, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-3, 1.0, 100.0])
def test_in_bf16_it_is_as_near_to_the_truth(size: float) -> None:
    norm = llama_norm(128, torch.bfloat16)
    torch.manual_seed(2)
    x, above = (torch.randn(64, 128) * size).bfloat16(), torch.randn(64, 128).bfloat16()
    true = result(copy.deepcopy(norm).double(), x.double(), above.double())
    theirs, ours = result(norm, x, above), result(fused_kernels(norm), x, above)
    for name, a, b, exact in zip(["y", "dx", "dw"], ours, theirs, true, strict=True):
        near, far = ((t.double() - exact).norm() / exact.norm() for t in (a, b))
        assert near < 1.6 * far + 1e-5, (name, float(near), float(far))
        assert a.dtype == torch.bfloat16


@pytest.mark.parametrize("family", ["llama", "qwen3", "mistral"])
def test_a_model_keeps_its_names_and_its_answers(family: str) -> None:
    model = tiny_model(family)
    for name, parameter in model.named_parameters():
        if "norm" in name:
            nn.init.uniform_(parameter, 0.5, 1.5)
    plain = copy.deepcopy(model)
    found = rms_norm.use(model)
    assert found == sum(type(m) is LeanNorm for m in model.modules())
    assert found == sum("norm" in name for name, _ in model.named_parameters())
    assert rms_norm.use(model) == 0
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
def test_another_formula_is_left_alone(dtype: torch.dtype) -> None:
    class HalfRMSNorm(LlamaRMSNorm):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) / 2

    class ForgetfulRMSNorm(LlamaRMSNorm):
        """Without its eps, so only small rows differ."""

        def forward(self, x: Tensor) -> Tensor:
            wide = x.float()
            scaled = wide * wide.pow(2).mean(-1, keepdim=True).clamp(min=1e-12).rsqrt()
            return self.weight * scaled.to(x.dtype)

    class Whitening(LlamaRMSNorm):
        pass

    others: list[Any] = [GemmaRMSNorm(16), HalfRMSNorm(16), ForgetfulRMSNorm(16), nn.LayerNorm(16)]
    with torch.no_grad():
        assert rms_norm.use(nn.Sequential(*others, Whitening(16)).to(dtype)) == 0


def test_asking_leaves_the_seed_alone() -> None:
    torch.manual_seed(3)
    wanted = torch.rand(4)
    torch.manual_seed(3)
    rms_norm.use(nn.Sequential(llama_norm_at_hand()))
    assert torch.equal(torch.rand(4), wanted)


def llama_norm_at_hand() -> LlamaRMSNorm:
    return LlamaRMSNorm(16)
