"""Supervised fine-tuning as a whole: the guard in front of it, and what it announces."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.contracts import Job
from tunesmith.errors import EnvironmentProblem
from tunesmith.events import Event, Stepped, Trained, TrainingStarted
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels import lora_autograd, rms_norm
from tunesmith_torch.kernels.fused_lora import LeanLinear
from tunesmith_torch.losses import selected_positions
from tunesmith_torch.models.adapters import adapt_all, adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.self_check import refuse_disagreement
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import sft
from tunesmith_torch.training.sft import supervise

CPU = torch.device("cpu")
RECORDS = tuple(Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten") for n in range(8))


def job(folder: Path, model: Path, config: LoraOptions, emit: Callable[[Event], None]) -> Job[Any]:
    return Job(
        config=config,
        model=model,
        train=RECORDS,
        heldout=RECORDS[:1],
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("packing", [True, False])
@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"dropout": 0.3}], ids=str)
def test_the_guard_lets_good_models_pass(
    tiny_folder: Path, precision: str, packing: bool, options: dict[str, Any]
) -> None:
    wanted = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, wanted, packing=packing)
    adapted = adapt_lora(base, wanted, LoraOptions(**options), 3)
    assert any(isinstance(module, LeanLinear) for module in adapted.model.modules())
    refuse_disagreement(adapted, packing=packing)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
def test_the_guard_lets_other_families_pass(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    for name in ("fp32", "bf16"):
        precision = pick_precision(CPU, name)  # type: ignore[arg-type]
        base = load_model(folder, CPU, precision, packing=True)
        refuse_disagreement(adapt_all(base, precision), packing=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_rows_that_hear_each_other_are_refused(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights are made larger: those of an untrained model hardly listen to anything."""
    wanted = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, wanted, packing=True)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    adapted = adapt_all(base, wanted)
    refuse_disagreement(adapted, packing=True)

    def one_row(*args: Any, **kwargs: Any) -> MicroBatch:
        batch = whole(*args, **kwargs)
        T = batch.ids_BT.shape[1]
        return replace(
            batch, positions_BT=torch.arange(T)[None], boundaries=torch.tensor([0, T]).int()
        )

    whole = selected_positions.collate
    monkeypatch.setattr(selected_positions, "collate", one_row)
    with pytest.raises(EnvironmentProblem, match="nats apart") as caught:
        refuse_disagreement(adapted, packing=True)
    assert caught.value.hint == "set packing = false"


def test_a_run_asks_the_guard_and_tells_what_it_did(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    whole = sft.refuse_disagreement

    def ask(adapted: Any, *, packing: bool) -> None:
        asked.append(packing)
        whole(adapted, packing=packing)

    monkeypatch.setattr(sft, "refuse_disagreement", ask)
    events: list[Event] = []
    config = LoraOptions(epochs=2, batch_size=4)
    supervise(
        job(tmp_path, tiny_folder, config, events.append),
        lambda base, precision: adapt_lora(base, precision, config, 1),
    )
    assert asked == [True]
    started = next(event for event in events if isinstance(event, TrainingStarted))
    steps = [event for event in events if isinstance(event, Stepped)]
    ended = next(event for event in events if isinstance(event, Trained))
    assert started.steps == len(steps) == ended.steps == 4
    assert sum(step.tokens for step in steps) == ended.tokens == 2 * started.tokens
    assert sum(step.trained_tokens for step in steps) == ended.trained_tokens


def trained(folder: Path, model: Path, config: LoraOptions) -> list[Stepped]:
    events: list[Event] = []
    supervise(
        job(folder, model, config, events.append),
        lambda base, precision: adapt_lora(base, precision, config, 1),
    )
    return [event for event in events if isinstance(event, Stepped)]


def test_lean_parts_change_nothing_but_the_time(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On and off, with the same losses; and off is off."""
    calls: list[str] = []
    for kind in (rms_norm._Norm, lora_autograd.LowRank):
        monkeypatch.setattr(kind, "apply", counted(kind.apply, kind.__name__, calls))
    losses = {}
    for on in (True, False):
        calls.clear()
        config = LoraOptions(
            batch_size=4, max_steps=3, precision="fp32", fused_kernels=on, learning_rate=1e-2
        )
        steps = trained(tmp_path / str(on), tiny_folder, config)
        losses[on] = [step.loss for step in steps]
        assert set(calls) == ({"_Norm", "LowRank"} if on else set())
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][-1] < losses[True][0]


def counted(whole: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        calls.append(name)
        return whole(*args)

    return apply


def test_rows_become_tokens_while_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits here for the other to begin, so one after the other would never end."""
    begun, done = threading.Event(), threading.Event()
    tokenise, read = Template.examples_or_left_out, sft.load_model

    def tokenising(*args: Any, **kwargs: Any) -> Any:
        assert begun.wait(60)
        examples = tokenise(*args, **kwargs)
        done.set()
        return examples

    def reading(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert done.wait(60)
        return read(*args, **kwargs)

    monkeypatch.setattr(Template, "examples_or_left_out", tokenising)
    monkeypatch.setattr(sft, "load_model", reading)
    assert len(trained(tmp_path, tiny_folder, LoraOptions(batch_size=4, max_steps=2))) == 2


def test_an_optimizer_that_cannot_be_had_is_refused_before_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "load_model", None)
    with pytest.raises(EnvironmentProblem, match="this run is on cpu"):
        trained(tmp_path, tiny_folder, LoraOptions(optimizer="paged-adamw-8bit"))


def test_training_in_8_bits_goes_all_the_way(tmp_path: Path, tiny_folder: Path) -> None:
    config = LoraOptions(batch_size=4, max_steps=4, optimizer="adamw-8bit", learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`is_gradient_checkpointing` is deprecated")
        steps = trained(tmp_path, tiny_folder, config)
    assert steps[-1].loss < steps[0].loss
