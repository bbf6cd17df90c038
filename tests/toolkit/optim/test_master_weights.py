"""Master weights: fp32 updates of a bf16 model, and a state that resumes bit for bit."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import pytest
import torch
from tables import build
from torch import nn

from tunesmith.errors import EnvironmentProblem
from tunesmith_torch.optim import adamw
from tunesmith_torch.optim.master_weights import MasterWeights
from tunesmith_torch.options import checks
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.training import training_state

OPTIONS = build(TrainingOptions, learning_rate=1e-5, optimizer__weight_decay=0.1)


def _net(dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16), nn.Linear(16, 4)).to(dtype)


def _run(net: nn.Module, masters: MasterWeights, steps: int, start: int = 0) -> None:
    dtype = next(net.parameters()).dtype
    for step in range(start, start + steps):
        torch.manual_seed(step)
        for _ in range(2):  # two micro-batches
            net(torch.randn(4, 8).to(dtype)).square().sum().backward()
        masters.clip_grad_norm(1.0)
        masters.step(1e-5)


def test_fp32_parameters_are_their_own_master_weights() -> None:
    net, plain = _net(torch.float32), _net(torch.float32)
    masters = MasterWeights(net.named_parameters(), OPTIONS)
    assert all(a is b for a, b in zip(masters.masters, net.parameters(), strict=True))
    _run(net, masters, 3)
    groups = [
        {"params": [p for p in plain.parameters() if p.ndim >= 2], "weight_decay": 0.1},
        {"params": [p for p in plain.parameters() if p.ndim < 2], "weight_decay": 0.0},
    ]
    reference = torch.optim.AdamW(groups, lr=1e-5, betas=OPTIONS.optimizer.betas)
    for step in range(3):
        torch.manual_seed(step)
        for _ in range(2):
            plain(torch.randn(4, 8)).square().sum().backward()
        nn.utils.clip_grad_norm_(list(plain.parameters()), 1.0)
        reference.step()
        reference.zero_grad()
    for parameter, expected in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("share", [1e-9, 0.5, 0.9999999, 1.0, 1.0000001, 2.0, float("nan")])
def test_gradients_and_norm_are_those_of_torchs_clipping(share: float) -> None:
    """Bit for bit, below, at and above the maximum norm."""
    net, plain = _net(torch.float32), _net(torch.float32)
    masters = MasterWeights(net.named_parameters(), OPTIONS)
    for each in (net, plain):
        each(torch.ones(4, 8)).square().sum().backward()
    gradients = [p.grad for p in plain.parameters() if p.grad is not None]
    usual = float(nn.utils.get_total_norm(gradients))
    for parameter in (*net.parameters(), *plain.parameters()):
        assert parameter.grad is not None
        parameter.grad.mul_(share / usual)
    norm = masters.clip_grad_norm(1.0)
    expected = nn.utils.clip_grad_norm_(list(plain.parameters()), 1.0, foreach=True)
    torch.testing.assert_close(norm, expected, rtol=0, atol=0, equal_nan=True)
    for found, other in zip(net.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, other.grad, rtol=0, atol=0, equal_nan=True)


def test_small_updates_are_not_rounded_away_in_bf16() -> None:
    """Forty steps of 1e-5, each less than a bf16 digit of a weight near 0.2, add up."""
    net = _net(torch.bfloat16)
    before = [p.detach().clone() for p in net.parameters()]
    masters = MasterWeights(net.named_parameters(), OPTIONS)
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
    masters = MasterWeights([("w", weight)], OPTIONS)
    (weight * 256).sum().backward()
    for _ in range(64):
        (weight * 0.5).sum().backward()
    assert masters.masters[0].grad is not None
    assert masters.masters[0].grad.item() == 256 + 32
    assert weight.grad is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_loaded_state_resumes_bit_for_bit(dtype: torch.dtype) -> None:
    net = _net(dtype)
    masters = MasterWeights(net.named_parameters(), OPTIONS)
    _run(net, masters, 2)
    saved = copy.deepcopy(masters.state_dict())
    _run(net, masters, 3, start=2)
    fresh = _net(dtype)
    resumed = MasterWeights(fresh.named_parameters(), OPTIONS)
    resumed.load_state_dict(saved)
    _run(fresh, resumed, 3, start=2)
    for one, two in zip(masters.masters, resumed.masters, strict=True):
        assert torch.equal(one, two)


def test_a_state_without_its_moments_is_refused() -> None:
    net = _net(torch.float32)
    masters = MasterWeights(net.named_parameters(), OPTIONS)
    _run(net, masters, 1)
    saved = {k: v for k, v in masters.state_dict().items() if k != "exp_avg.0.weight"}
    with pytest.raises(KeyError, match=r"exp_avg\.0\.weight"):
        MasterWeights(_net(torch.float32).named_parameters(), OPTIONS).load_state_dict(saved)


OPTIONS_8BIT = build(TrainingOptions, learning_rate=1e-2, optimizer__name="adamw-8bit")


def _wide(dtype: torch.dtype = torch.float32) -> nn.Module:
    """Return a model whose weights are large enough for 8 bits, and whose biases are not."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 96), nn.Tanh(), nn.Linear(96, 64)).to(dtype)


def _learn(net: nn.Module, masters: MasterWeights, steps: range) -> list[float]:
    losses = []
    for step in steps:
        torch.manual_seed(step)
        x = torch.randn(32, 64)
        loss = (net(x.to(next(net.parameters()).dtype)).float() - x.roll(1, 1)).square().mean()
        loss.backward()
        masters.clip_grad_norm(1.0)
        masters.step(1e-2)
        losses.append(loss.item())
    return losses


def test_8_bit_adamw_learns_like_adamw_with_a_quarter_of_the_memory() -> None:
    losses = {}
    for options in (OPTIONS_8BIT, build(TrainingOptions, learning_rate=1e-2)):
        net = _wide()
        masters = MasterWeights(net.named_parameters(), options)
        losses[options.optimizer.name] = _learn(net, masters, range(40))
        tensors = {k: t for k, t in masters.state_dict().items() if not k.startswith("master.")}
        large = sum(t.nbytes for k, t in tensors.items() if "0.weight" in k and "qmap" not in k)
        assert large < 2.2 * 64 * 96 if options is OPTIONS_8BIT else large >= 8 * 64 * 96
    assert losses["adamw-8bit"][-1] < 0.7 * losses["adamw-8bit"][0]
    assert abs(losses["adamw-8bit"][-1] / losses["adamw"][-1] - 1) < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("before", [0, 3])
def test_an_8_bit_state_resumes_bit_for_bit(
    dtype: torch.dtype, before: int, tmp_path: Path
) -> None:
    net = _wide(dtype)
    masters = MasterWeights(net.named_parameters(), OPTIONS_8BIT)
    _learn(net, masters, range(before))
    training_state.save_training_state(tmp_path, masters)
    _learn(net, masters, range(before, before + 3))
    fresh = _wide(dtype)
    with torch.no_grad():
        fresh[0].weight.zero_()
    resumed = MasterWeights(fresh.named_parameters(), OPTIONS_8BIT)
    training_state.restore_training_state(tmp_path, resumed)
    _learn(fresh, resumed, range(before, before + 3))
    first_state, second_state = masters.state_dict(), resumed.state_dict()
    assert first_state.keys() == second_state.keys()
    for name in first_state:
        assert torch.equal(first_state[name], second_state[name]), name


def test_an_incomplete_8_bit_state_is_refused(tmp_path: Path) -> None:
    net = _wide()
    masters = MasterWeights(net.named_parameters(), OPTIONS_8BIT)
    _learn(net, masters, range(1))
    complete = masters.state_dict()
    incomplete = {k: v for k, v in complete.items() if k != "absmax2.0.weight"}
    with pytest.raises(KeyError, match=r"absmax2\.0\.weight"):
        masters.load_state_dict(incomplete)
    with pytest.raises(ValueError, match=r"state1\.0\.weight has shape \[1\]"):
        masters.load_state_dict({**complete, "state1.0.weight": torch.zeros(1, dtype=torch.uint8)})


def test_an_optimizer_that_does_not_work_here_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cpu = torch.device("cpu")
    for kind in ("adamw", "adamw-8bit"):
        adamw.check_available(kind, cpu)
    with pytest.raises(EnvironmentProblem, match="needs an NVIDIA GPU"):
        adamw.check_available("paged-adamw-8bit", cpu)
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    adamw.check_available("adamw", cpu)
    with pytest.raises(EnvironmentProblem, match="bitsandbytes cannot be imported"):
        adamw.check_available("adamw-8bit", cpu)


def test_a_plan_has_findings_about_the_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    paged = build(TrainingOptions, optimizer__name="paged-adamw-8bit")
    assert not checks.check_optimizer(OPTIONS, "cpu") and not checks.check_optimizer(
        paged, "cuda:1"
    )
    (finding,) = checks.check_optimizer(paged, "cpu")
    assert finding.level == "error" and "the device is cpu" in finding.message
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # as if it were not installed
    (finding,) = checks.check_optimizer(OPTIONS_8BIT, "auto")
    assert "needs bitsandbytes" in finding.message
    assert not checks.check_optimizer(OPTIONS, "auto")
