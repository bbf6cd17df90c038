"""``project``: the applied update stays outside of the subspace, whatever the optimizer does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from training import Training, assert_same_weights

from tunesmith.errors import RunStopped
from tunesmith_continual import retention
from tunesmith_continual.subspace import (
    MAX_LEAK,
    Projection,
    find_reading_layers,
    measure_leak,
    measure_subspaces,
)
from tunesmith_torch.training.additions import Update


@pytest.fixture
def bases(monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The protected subspaces of the last training, by name of the matrix."""
    found: dict[str, torch.Tensor] = {}
    measure = retention.measure_subspaces

    def remember(*arguments: Any) -> dict[str, torch.Tensor]:
        found.clear()
        found.update(measure(*arguments))
        return found

    monkeypatch.setattr(retention, "measure_subspaces", remember)
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
@pytest.mark.parametrize("use", ["lora", "full"])
@pytest.mark.parametrize("rate", [1e-2, 1e-4])
def test_no_applied_update_leaks(
    tmp_path: Path, tiny_model: Path, earlier: list[str], bases: Any, optimizer: str, use: str,
    rate: float,
) -> None:  # fmt: skip
    """With weight decay, with 8 bits, before and after a resume, down to the last small step."""
    keys = {"project": 0.9, "project_rows": 8, "earlier": earlier}
    technique: Any = {"use": use, "learning_rate": rate, "epochs": 4}
    technique["optimizer"] = {"name": optimizer, "weight_decay": 0.1}
    with pytest.raises(RunStopped):
        Training(tmp_path / "run", tiny_model, keys, stop=5, **technique)
    run = Training(tmp_path / "run", tiny_model, keys, **technique)
    assert len(bases) == 14, "two layers with seven matrices"
    assert all(0 < basis.shape[1] < basis.shape[0] for basis in bases.values())
    leaks = run.leaks(bases)
    assert max(leaks) <= MAX_LEAK
    moved = sum(bool(change.norm()) for c in run.watching.changes for change in c.values())
    assert moved > len(run.steps), "almost every update was withheld"
    free = Training(tmp_path / "free", tiny_model, **technique)
    assert min(free.leaks(bases)) > 1e-3


def test_the_product_of_an_adapter_is_zero_on_earlier_inputs(
    tmp_path: Path, tiny_model: Path, earlier: list[str], bases: Any
) -> None:
    """``B A U = 0``: so its initial A is projected too."""
    keys = {"project": 0.9, "earlier": earlier}
    run = Training(tmp_path / "run", tiny_model, keys, epochs=4)
    for name, basis in bases.items():
        stored = name.replace(".default", "")
        assert measure_leak(run.weights[stored], basis) <= MAX_LEAK
        b_OR = run.weights[stored.replace("lora_A", "lora_B")]
        assert b_OR.norm() > 0
        assert measure_leak(b_OR @ run.weights[stored], basis) <= MAX_LEAK


def test_parameters_that_read_no_inputs_stay(
    tmp_path: Path, tiny_model: Path, earlier: list[str], bases: Any
) -> None:
    keys = {"project": 0.9, "earlier": earlier}
    run = Training(tmp_path / "run", tiny_model, keys, use="full")
    for changes in run.watching.changes:
        others = [change for name, change in changes.items() if name not in bases]
        assert others and not any(change.any() for change in others)


def test_a_small_update_waits_and_is_not_lost() -> None:
    """Updates below the resolution of fp32 add up until one of them can be applied."""
    torch.manual_seed(0)
    basis = torch.linalg.qr(torch.randn(64, 8, dtype=torch.float64)).Q
    projection = Projection({"w": basis}, [])
    weight = 0.01 * torch.randn(4, 64)
    start, direction = weight.clone(), torch.randn(4, 64, dtype=torch.float64)
    applied = 0
    for step in range(100):
        before = weight.clone()
        weight += (1e-6 * direction).float()
        projection.transform(Update(step, 1e-6, {"w": before}, {"w": weight}))
        change = weight.double() - before.double()
        applied += bool(change.norm())
        assert measure_leak(change, basis) <= MAX_LEAK
    assert 0 < applied < 100
    projection.transform(Update(100, 1e-6, {"w": weight.clone()}, {"w": weight}))
    total = weight.double() - start.double() + projection.state_dict()["waiting.w"]
    # Adding 1e-6 to fp32 weights is itself inexact, so only the direction is known.
    expected = projection.project("w", 100e-6 * direction)
    assert float((total - expected).norm() / expected.norm()) < 0.01


def test_subspaces_equal_those_of_plain_svd() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 3))
    rows = torch.randn(200, 6) * torch.tensor([9.0, 5.0, 1.0, 0.1, 0.1, 0.1])
    layers = find_reading_layers(model, dict(model.named_parameters()))
    assert set(layers) == {"0.weight", "1.weight"}
    found = measure_subspaces(layers, lambda: exec_rows(model, rows), 0.95)
    left = torch.linalg.svd(rows.double().T).U[:, : found["0.weight"].shape[1]]
    assert found["0.weight"].shape[1] == 2
    overlap = torch.linalg.svdvals(left.T @ found["0.weight"])
    torch.testing.assert_close(overlap, torch.ones_like(overlap))


def exec_rows(model: nn.Module, rows: torch.Tensor) -> None:
    model(rows)


def test_a_resumed_run_is_the_same_with_small_updates(
    tmp_path: Path, tiny_model: Path, earlier: list[str]
) -> None:
    """The withheld updates are in the checkpoint."""
    keys = {"project": 0.9, "earlier": earlier}
    technique = {"use": "full", "learning_rate": 1e-5, "epochs": 3}
    complete = Training(tmp_path / "complete", tiny_model, keys, **technique)
    with pytest.raises(RunStopped):
        Training(tmp_path / "resumed", tiny_model, keys, stop=4, **technique)
    assert_same_weights(complete, Training(tmp_path / "resumed", tiny_model, keys, **technique))
