"""Supervised fine-tuning: the self-check before it, its events, and the fused kernels."""

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
from tunesmith.events import Event, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_torch.data.packing import MicroBatch
from tunesmith_torch.data.templates import Template
from tunesmith_torch.kernels import lora_autograd, rms_norm
from tunesmith_torch.kernels.fused_lora import FusedLoraLinear
from tunesmith_torch.losses import selected_positions
from tunesmith_torch.models.adapters import adapt_full, adapt_lora
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.models.self_check import check_logprobs
from tunesmith_torch.options.training import LoraOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import sft
from tunesmith_torch.training.sft import train_supervised

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
def test_the_self_check_accepts_good_models(
    tiny_folder: Path, precision: str, packing: bool, options: dict[str, Any]
) -> None:
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=packing)
    adapted = adapt_lora(base, picked, LoraOptions(**options), 3)
    assert any(isinstance(module, FusedLoraLinear) for module in adapted.model.modules())
    check_logprobs(adapted, packing=packing)


@pytest.mark.parametrize("family", ["qwen2", "mistral", "gemma2"])
def test_the_self_check_accepts_other_families(tmp_path: Path, family: str) -> None:
    folder = save_tiny_model(tmp_path / family, family)
    for name in ("fp32", "bf16"):
        precision = pick_precision(CPU, name)  # type: ignore[arg-type]
        base = load_model(folder, CPU, precision, packing=True)
        check_logprobs(adapt_full(base, precision), packing=True)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_attention_between_packed_rows_is_refused(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    """Weights are scaled up: an untrained model hardly attends to anything."""
    picked = pick_precision(CPU, precision)  # type: ignore[arg-type]
    base = load_model(tiny_folder, CPU, picked, packing=True)
    with torch.no_grad():
        for parameter in base.model.parameters():
            parameter.mul_(8 if parameter.ndim > 1 else 1)
    adapted = adapt_full(base, picked)
    check_logprobs(adapted, packing=True)

    def one_row(*args: Any, **kwargs: Any) -> MicroBatch:
        batch = original(*args, **kwargs)
        T = batch.ids_BT.shape[1]
        return replace(
            batch, positions_BT=torch.arange(T)[None], boundaries=torch.tensor([0, T]).int()
        )

    original = selected_positions.collate
    monkeypatch.setattr(selected_positions, "collate", one_row)
    with pytest.raises(EnvironmentProblem, match=r"difference of .* nats") as caught:
        check_logprobs(adapted, packing=True)
    assert caught.value.hint == "set packing = false"


def test_a_run_performs_the_self_check_and_reports_its_counts(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[bool] = []
    original = sft.check_logprobs

    def check(adapted: Any, *, packing: bool) -> None:
        checked.append(packing)
        original(adapted, packing=packing)

    monkeypatch.setattr(sft, "check_logprobs", check)
    events: list[Event] = []
    config = LoraOptions(epochs=2, batch_size=4)
    train_supervised(
        job(tmp_path, tiny_folder, config, events.append),
        lambda base, precision: adapt_lora(base, precision, config, 1),
    )
    assert checked == [True]
    started = next(event for event in events if isinstance(event, TrainingStarted))
    steps = [event for event in events if isinstance(event, StepFinished)]
    finished = next(event for event in events if isinstance(event, TrainingFinished))
    assert started.steps == len(steps) == finished.steps == 4
    assert sum(step.tokens for step in steps) == finished.tokens == 2 * started.tokens
    assert sum(step.trained_tokens for step in steps) == finished.trained_tokens


def trained(folder: Path, model: Path, config: LoraOptions) -> list[StepFinished]:
    events: list[Event] = []
    train_supervised(
        job(folder, model, config, events.append),
        lambda base, precision: adapt_lora(base, precision, config, 1),
    )
    return [event for event in events if isinstance(event, StepFinished)]


def test_fused_kernels_do_not_change_the_losses(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Switched on they are used, switched off they are not; the losses are equal."""
    calls: list[str] = []
    for kind in (rms_norm._RMSNormFunction, lora_autograd.LoraFunction):
        monkeypatch.setattr(kind, "apply", counted(kind.apply, kind.__name__, calls))
    losses = {}
    for on in (True, False):
        calls.clear()
        config = LoraOptions(
            batch_size=4, max_steps=3, precision="fp32", fused_kernels=on, learning_rate=1e-2
        )
        steps = trained(tmp_path / str(on), tiny_folder, config)
        losses[on] = [step.loss for step in steps]
        assert set(calls) == ({"_RMSNormFunction", "LoraFunction"} if on else set())
    assert losses[True] == pytest.approx(losses[False], rel=1e-5)
    assert losses[True][-1] < losses[True][0]


def counted(function: Callable[..., Any], name: str, calls: list[str]) -> Callable[..., Any]:
    def apply(*args: Any) -> Any:
        calls.append(name)
        return function(*args)

    return apply


def test_rows_are_tokenized_while_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits here for the other to begin, so in sequence they would never end."""
    begun, done = threading.Event(), threading.Event()
    tokenize, read = Template.tokenize_records, sft.load_model

    def tokenize_slowly(*args: Any, **kwargs: Any) -> Any:
        assert begun.wait(60)
        examples = tokenize(*args, **kwargs)
        done.set()
        return examples

    def read_slowly(*args: Any, **kwargs: Any) -> Any:
        begun.set()
        assert done.wait(60)
        return read(*args, **kwargs)

    monkeypatch.setattr(Template, "tokenize_records", tokenize_slowly)
    monkeypatch.setattr(sft, "load_model", read_slowly)
    assert len(trained(tmp_path, tiny_folder, LoraOptions(batch_size=4, max_steps=2))) == 2


def test_an_unavailable_optimizer_is_refused_before_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sft, "load_model", None)
    with pytest.raises(EnvironmentProblem, match="this run is on cpu"):
        trained(tmp_path, tiny_folder, LoraOptions(optimizer="paged-adamw-8bit"))


def test_training_with_8_bit_adamw(tmp_path: Path, tiny_folder: Path) -> None:
    config = LoraOptions(batch_size=4, max_steps=4, optimizer="adamw-8bit", learning_rate=1e-2)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`is_gradient_checkpointing` is deprecated")
        steps = trained(tmp_path, tiny_folder, config)
    assert steps[-1].loss < steps[0].loss
