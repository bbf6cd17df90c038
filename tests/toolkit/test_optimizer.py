"""Masters: fp32 arithmetic under a bf16 model, and a state that comes back whole."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from tunesmith_torch.optimizer import Masters
from tunesmith_torch.options import FitOptions

OPTIONS = FitOptions(learning_rate=1e-5, weight_decay=0.1)


def _net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)


def _run(net: nn.Module, masters: Masters, steps: int, start: int = 0) -> None:
    dtype = next(net.parameters()).dtype
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for _ in range(2):  # two micro-batches
            net(torch.randn(4, 8).to(dtype)).square().sum().backward()
        masters.clip(1.0)
        masters.step(1e-5)


def test_fp32_parameters_are_their_own_masters() -> None:
    net, plain = _net(torch.float32), _net(torch.float32)
    masters = Masters(net.named_parameters(), OPTIONS)
    assert all(a is b for a, b in zip(masters.masters, net.parameters(), strict=True))
    _run(net, masters, 3)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=1e-5, betas=OPTIONS.betas)
    for step in range(3):
        torch.manual_seed(step)
        for _ in range(2):
            plain(torch.randn(4, 8)).square().sum().backward()
        nn.utils.clip_grad_norm_(list(plain.parameters()), 1.0)
        adamw.step()
        adamw.zero_grad()
    for ours, theirs in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


def test_small_updates_are_not_rounded_away_in_bf16() -> None:
    """Forty steps of 1e-5, each less than a bf16 digit of a weight near 0.2, add up."""
    net = _net(torch.bfloat16)
    before = [p.detach().clone() for p in net.parameters()]
    masters = Masters(net.named_parameters(), OPTIONS)
    first = [m.detach().clone() for m in masters.masters]
    _run(net, masters, 40)
    moved = [(m - f).abs().max() for m, f in zip(masters.masters, first, strict=True)]
    assert min(moved) > 5e-5
    assert all(m.dtype == torch.float32 for m in masters.masters)
    for parameter, master in zip(net.parameters(), masters.masters, strict=True):
        assert torch.equal(parameter, master.bfloat16())
    assert any(not torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


def test_micro_batches_add_up_in_fp32() -> None:
    """A bf16 sum of a large and many small gradients would lose the small ones."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))
    masters = Masters([("w", weight)], OPTIONS)
    (weight * 256).sum().backward()
    for _ in range(64):
        (weight * 0.5).sum().backward()
    assert masters.masters[0].grad is not None
    assert masters.masters[0].grad.item() == 256 + 32
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_restored_state_goes_on_bit_for_bit(dtype: torch.dtype) -> None:
    net = _net(dtype)
    masters = Masters(net.named_parameters(), OPTIONS)
    _run(net, masters, 2)
    saved = copy.deepcopy(masters.tensors())
    _run(net, masters, 3, start=2)
    fresh = _net(dtype)
    again = Masters(fresh.named_parameters(), OPTIONS)
    again.restore(saved)
    _run(fresh, again, 3, start=2)
    for one, two in zip(masters.masters, again.masters, strict=True):
        assert torch.equal(one, two)


def test_a_state_without_its_moments_is_refused() -> None:
    net = _net(torch.float32)
    masters = Masters(net.named_parameters(), OPTIONS)
    _run(net, masters, 1)
    saved = {k: v for k, v in masters.tensors().items() if k != "exp_avg.0.weight"}
    with pytest.raises(KeyError, match=r"exp_avg\.0\.weight"):
        Masters(_net(torch.float32).named_parameters(), OPTIONS).restore(saved)
