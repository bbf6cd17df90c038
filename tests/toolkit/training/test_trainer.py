"""The trainer that techniques share: its order of events, counts, checkpoints and refusals."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tables import build
from tests.architectures.models import Case, save_model
from tests.architectures.sizes import Sizes

from tunesmith.contracts import Job
from tunesmith.errors import EnvironmentProblem, RunStopped
from tunesmith.events import (
    CheckpointSaved,
    Event,
    FindingReported,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.self_check import RowLayout
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.training import trainer
from tunesmith_torch.training.supervised import SupervisedTask

RECORDS = tuple(
    Completion(source=f"r:{n}", prompt=f"{n}?", completion="ten " * (1 + n % 3)) for n in range(8)
)


def job(
    folder: Path, model: Path, config: TrainingOptions, emit: Callable[[Event], None]
) -> Job[Any]:
    folder.mkdir(parents=True, exist_ok=True)
    return Job(
        config=config,
        model=model,
        train=RECORDS,
        validation=RECORDS[:1],
        out=folder,
        seed=1,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


def train(folder: Path, model: Path, **changes: Any) -> list[Event]:
    """Train by LoRA with these options; return the events."""
    events: list[Event] = []
    config = build(LoraOptions, **{"precision": "fp32", "batch_size": 4, **changes})
    trainer.train(job(folder, model, config, events.append), SupervisedTask())
    return events


def steps(events: list[Event]) -> list[StepFinished]:
    return [event for event in events if isinstance(event, StepFinished)]


def test_a_run_reports_its_layout_and_its_counts(tmp_path: Path, tiny_folder: Path) -> None:
    events = train(tmp_path, tiny_folder, epochs=2)
    started = next(event for event in events if isinstance(event, TrainingStarted))
    finished = next(event for event in events if isinstance(event, TrainingFinished))
    assert started.details["layout"] == "packed"
    assert started.steps == len(steps(events)) == finished.steps == 4
    assert sum(step.tokens for step in steps(events)) == finished.tokens == 2 * started.tokens
    assert sum(step.trained_tokens for step in steps(events)) == finished.trained_tokens


@pytest.mark.parametrize("option", [True, False])
def test_a_model_that_cannot_pack_is_padded_and_the_reason_is_reported(
    tmp_path: Path, option: bool
) -> None:
    """The attention of gpt-oss has sinks. Without packing, nothing was given up."""
    model = tmp_path / "model"
    save_model(Case("gpt_oss"), Sizes(layers=2), 0, model)
    events = train(tmp_path / "run", model, max_steps=2, packing=option)
    started = next(event for event in events if isinstance(event, TrainingStarted))
    assert started.details["layout"] == "padded"
    reasons = [
        e.message for e in events if isinstance(e, FindingReported) and "padded" in e.message
    ]
    assert len(reasons) == option
    assert not option or "`s_aux`" in reasons[0]


def test_a_task_that_needs_several_rows_at_once_refuses_a_model_that_cannot(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pairs(SupervisedTask):
        can_compute_rows_alone = False

    layout = RowLayout("alone", "padded rows would change log-probabilities")
    monkeypatch.setattr(trainer, "choose_row_layout", lambda *args, **kwargs: layout)
    config = build(LoraOptions, precision="fp32", batch_size=4, max_steps=1)
    with pytest.raises(EnvironmentProblem, match="one row at a time, because padded rows would"):
        trainer.train(job(tmp_path / "run", tiny_folder, config, lambda _: None), Pairs())


def test_rows_are_tokenized_while_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each waits here for the other to begin, so in sequence they would never end."""
    begun, done = threading.Event(), threading.Event()
    tokenize, read = Template.tokenize_records, trainer.load_model

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
    monkeypatch.setattr(trainer, "load_model", read_slowly)
    assert len(steps(train(tmp_path, tiny_folder, max_steps=2))) == 2


def test_an_unavailable_optimizer_is_refused_before_weights_are_read(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainer, "load_model", None)
    with pytest.raises(EnvironmentProblem, match="this run uses cpu"):
        train(tmp_path, tiny_folder, optimizer__name="paged-adamw-8bit")


def test_training_with_8_bit_adamw(tmp_path: Path, tiny_folder: Path) -> None:
    options = {"max_steps": 4, "optimizer__name": "adamw-8bit", "learning_rate": 1e-2}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "`is_gradient_checkpointing` is deprecated")
        finished = steps(train(tmp_path, tiny_folder, precision="auto", **options))
    assert finished[-1].loss < finished[0].loss


@pytest.mark.parametrize(
    "length", [{"max_steps": 3}, {"epochs": 0.5}, {"epochs": 1.5, "batch_size": 3}], ids=str
)
def test_the_tokens_of_a_training_are_those_of_its_steps(
    tmp_path: Path, tiny_folder: Path, length: dict[str, Any]
) -> None:
    """Also if it ends within an epoch: rows have unequal lengths, so a share of all is wrong."""
    events = train(tmp_path, tiny_folder, **length)
    (started,) = [event for event in events if isinstance(event, TrainingStarted)]
    (finished,) = [event for event in events if isinstance(event, TrainingFinished)]
    assert finished.steps == len(steps(events))
    assert finished.tokens == sum(step.tokens for step in steps(events))
    assert finished.trained_tokens == sum(step.trained_tokens for step in steps(events))
    share = sum(step.rows for step in steps(events)) / len(RECORDS)
    assert finished.tokens != round(started.tokens * share)


def test_the_tokens_of_a_resumed_training_are_those_of_all_steps(
    tmp_path: Path, tiny_folder: Path
) -> None:
    whole = train(tmp_path / "uninterrupted", tiny_folder, max_steps=3)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 2:
            raise RunStopped("enough")

    config = build(LoraOptions, precision="fp32", batch_size=4, max_steps=3)
    with pytest.raises(RunStopped):
        trainer.train(job(tmp_path / "resumed", tiny_folder, config, stop), SupervisedTask())
    resumed = train(tmp_path / "resumed", tiny_folder, max_steps=3)
    assert len(steps(resumed)) == 1
    counts = [
        [(e.steps, e.tokens, e.trained_tokens) for e in events if isinstance(e, TrainingFinished)]
        for events in (whole, resumed)
    ]
    assert counts[0] == counts[1]


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_as_many_checkpoints_are_kept_as_the_options_say(
    tmp_path: Path, tiny_folder: Path, keep: int
) -> None:
    events = train(tmp_path, tiny_folder, max_steps=4, checkpoints__every=1, checkpoints__keep=keep)
    saved = [event.step for event in events if isinstance(event, CheckpointSaved)]
    assert saved == [1, 2, 3, 4]
    assert Checkpoints(tmp_path / "checkpoints").steps() == saved[-keep:]


def test_a_tensor_that_training_does_not_change_is_named(tmp_path: Path, tiny_folder: Path) -> None:
    """Here one adapter gets no gradient, like an expert that no token is sent to."""

    class Frozen(SupervisedTask):
        def adapt(self, *args: Any) -> Any:
            adapted = super().adapt(*args)
            for name, parameter in adapted.model.named_parameters():
                if parameter.requires_grad and "layers.0.mlp.up_proj" in name:
                    parameter.register_hook(lambda grad: grad * 0)
            return adapted

    events: list[Event] = []
    config = build(LoraOptions, precision="fp32", batch_size=4, max_steps=2, learning_rate=0.01)
    config = config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"weight_decay": 0.0})}
    )
    trainer.train(job(tmp_path / "frozen", tiny_folder, config, events.append), Frozen())
    (found,) = (e for e in events if isinstance(e, FindingReported) and e.source == "training")
    assert found.level == "warning"
    assert found.text.startswith("2 of 28 trainable tensors did not change in training: base_model")
    assert "layers.0.mlp.up_proj.lora_A" in found.text
    usual = train(tmp_path / "usual", tiny_folder, max_steps=2, learning_rate=0.01)
    assert not [e for e in usual if isinstance(e, FindingReported) and e.source == "training"]


def test_a_frozen_expert_is_named(tmp_path: Path) -> None:
    """One of four stacked experts gets no gradient; every token is sent to all experts."""

    class Frozen(SupervisedTask):
        def adapt(self, *args: Any) -> Any:
            adapted = super().adapt(*args)
            for name, parameter in adapted.model.named_parameters():
                if name.endswith("layers.0.mlp.experts.down_proj"):
                    parameter.register_hook(lambda grad: grad * expert)
            return adapted

    expert = torch.tensor([1.0, 1.0, 0.0, 1.0])[:, None, None]
    sizes = {"num_experts": 4, "num_experts_per_tok": 4, "moe_intermediate_size": 16}
    model = save_tiny_model(tmp_path / "moe", "qwen3_moe", changes=sizes)
    config = build(FullOptions, precision="fp32", batch_size=4, max_steps=2, learning_rate=0.01)
    config = config.model_copy(
        update={"optimizer": config.optimizer.model_copy(update={"weight_decay": 0.0})}
    )
    for task, names in ((Frozen(), ["layers.0.mlp.experts.down_proj[2]"]), (SupervisedTask(), [])):
        events: list[Event] = []
        trainer.train(job(tmp_path / type(task).__name__, model, config, events.append), task)
        found = [e for e in events if isinstance(e, FindingReported) and e.source == "training"]
        assert [event.text.rpartition(": model.")[2] for event in found] == names
