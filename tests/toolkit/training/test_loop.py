"""The training loop: one step, independence of the layout, stopping and resuming."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from tables import build

from tunesmith.contracts import Job
from tunesmith.errors import RunStopped, TrainingError
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.data.tokenized_records import TokenizedRecords
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.training import SupervisedOptions
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.runtime.memory import is_out_of_memory
from tunesmith_torch.training import supervised, trainer
from tunesmith_torch.training.supervised import NextTokenObjective, SupervisedData, SupervisedTask
from tunesmith_torch.training.trainer import PreparedTraining, TrainingSession

CPU = torch.device("cpu")
RECORDS = tuple(
    Completion(
        source=f"rows:{n}", prompt=f"What is {n}?" * (1 + n % 3), completion="ten " * (1 + n % 7)
    )
    for n in range(24)
)


def options(*, full: bool = False, **changes: Any) -> SupervisedOptions:
    base = {
        "epochs": 1,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "schedule__warmup_ratio": 0.0,
    }
    return build(FullOptions if full else LoraOptions, **{**base, **changes})


def job(
    folder: Path, config: SupervisedOptions, emit: Callable[[Event], None], model: Path
) -> Job[Any]:
    return Job(
        config=config,
        model=model,
        train=RECORDS,
        validation=RECORDS[:2],
        out=folder,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=emit,
        technique="test",
    )


def train(
    folder: Path,
    model: Path,
    config: SupervisedOptions,
    *,
    emit: Callable[[Event], None] | None = None,
) -> tuple[dict[str, torch.Tensor], list[Event]]:
    """Train; return the artifact's tensors and the events."""
    folder.mkdir(parents=True, exist_ok=True)
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        if emit is not None:
            emit(event)

    artifact = trainer.train(job(folder, config, record, model), SupervisedTask())
    (weights,) = artifact.path.glob("*.safetensors")
    return load_file(weights), events


def losses(events: Sequence[Event]) -> list[float]:
    return [event.loss for event in events if isinstance(event, StepFinished)]


def assert_close(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor], tolerance: float) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize(
    "layout",
    [
        {"micro_batch_tokens": 1},
        {"micro_batch_tokens": 64},
        {"micro_batch_tokens": 100_000, "packing": False},
        {"micro_batch_tokens": 90, "packing": False},
        {"gradient_checkpointing": True},
    ],
    ids=str,
)
def test_the_result_does_not_depend_on_micro_batches(
    tmp_path: Path, tiny_folder: Path, full: bool, layout: dict[str, Any]
) -> None:
    """One micro-batch, row by row, packed, padded, recomputed: the same parameters.

    A mean of micro-batch means instead of one division by the batch's tokens fails by far.
    """
    plain, events = train(tmp_path / "a", tiny_folder, options(full=full))
    other, others = train(tmp_path / "b", tiny_folder, options(full=full, **layout))
    assert losses(others) == pytest.approx(losses(events), rel=1e-5)
    assert_close(plain, other, 2e-5)


def test_a_step_equals_plain_torch_code(tmp_path: Path, tiny_folder: Path) -> None:
    """Against transformers' own logits, F.cross_entropy with -100, and torch's AdamW."""
    config = options(
        full=True,
        batch_size=24,
        epochs=3,
        schedule__type="constant",
        optimizer__max_grad_norm=1e9,
        optimizer__weight_decay=0.0,
    )
    trained, events = train(tmp_path, tiny_folder, config)
    base = load_model(tiny_folder, CPU, pick_precision(CPU, "fp32"), packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    adamw = torch.optim.AdamW(base.model.parameters(), lr=1e-2, weight_decay=0.0)
    expected = []
    for _ in range(3):
        total, count = torch.zeros(()), 0
        for record in RECORDS:
            (example,) = template.tokenize_record(record, 512)
            ids = torch.tensor(list(example.ids), dtype=torch.long)[None]
            labels = torch.where(torch.tensor(list(example.trained)).bool(), ids[0], -100)
            logits_TV = base.model(ids).logits[0]
            total = total + F.cross_entropy(logits_TV[:-1], labels[1:], reduction="sum")
            count += int((labels[1:] != -100).sum())
        (total / count).backward()
        expected.append(float(total.detach() / count))
        adamw.step()
        adamw.zero_grad()
    assert losses(events) == pytest.approx(expected, rel=1e-4)
    state = {k: v for k, v in base.model.state_dict().items() if k in trained}
    assert_close(trained, state, 2e-4)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_with_identical_weights(
    tmp_path: Path, tiny_folder: Path, full: bool, precision: str
) -> None:
    dropout = {} if full else {"adapter__dropout": 0.1}
    config = options(full=full, epochs=4, precision=precision, micro_batch_tokens=128, **dropout)
    uninterrupted, events = train(tmp_path / "uninterrupted", tiny_folder, config)

    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 5:
            raise RunStopped("enough")

    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, config, emit=stop)
    resumed, later = train(tmp_path / "resumed", tiny_folder, config)
    assert losses(later) == losses(events)[5:]
    for name in uninterrupted:
        assert torch.equal(uninterrupted[name], resumed[name]), name


def test_the_same_seed_gives_identical_weights(tmp_path: Path, tiny_folder: Path) -> None:
    torch.manual_seed(1)
    one, _ = train(tmp_path / "1", tiny_folder, options())
    torch.manual_seed(2)  # earlier use of the generator must not matter
    two, _ = train(tmp_path / "2", tiny_folder, options())
    assert all(torch.equal(one[name], two[name]) for name in one)


class FaultyObjective(NextTokenObjective):
    """An objective with a fault at one call of its loss."""

    def __init__(self, *args: Any, fault: str, at: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fault, self.at, self.calls = fault, at, 0

    def loss(self, micro_batch: Any) -> torch.Tensor:
        self.calls += 1
        loss = super().loss(micro_batch)
        if self.calls != self.at:
            return loss
        match self.fault:
            case "forward":
                return loss * float("nan")
            case "backward":
                return loss + (loss - loss.detach()) * float("inf")
            case "memory":
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            case _:
                raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")


def inject_fault(monkeypatch: pytest.MonkeyPatch, fault: str, at: int) -> None:
    def make(*args: Any, **kwargs: Any) -> FaultyObjective:
        return FaultyObjective(*args, fault=fault, at=at, **kwargs)

    monkeypatch.setattr(supervised.SupervisedTask, "objective_class", staticmethod(make))


@pytest.mark.parametrize("fault", ["forward", "backward"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    """In one micro-batch of several; nothing is updated, ``postmortem.json`` names the rows."""
    inject_fault(monkeypatch, fault, at=11)
    config = options(checkpoints__every=1, micro_batch_tokens=64)
    steps: list[StepFinished] = []

    def record(event: Event) -> None:
        if isinstance(event, StepFinished):
            steps.append(event)

    with pytest.raises(TrainingError, match="not finite"):
        train(tmp_path / "faulty", tiny_folder, config, emit=record)
    diagnosis = json.loads((tmp_path / "faulty" / "postmortem.json").read_text())
    assert diagnosis["last_good_checkpoint"] == f"step-{len(steps):08d}"
    assert diagnosis["step"] == len(steps) + 1
    assert diagnosis["rows"]
    assert all(row.startswith("rows:") for row in diagnosis["rows"])
    assert len(diagnosis["losses"]) > 2


@pytest.mark.parametrize("fault", ["memory", "cpu"])
def test_out_of_memory_halves_the_micro_batches(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    plain, _ = train(tmp_path / "plain", tiny_folder, options())
    inject_fault(monkeypatch, fault, at=2)
    same, events = train(tmp_path / "tight", tiny_folder, options())
    findings = [e for e in events if isinstance(e, FindingReported) and e.source == "memory"]
    assert ["2,048 tokens" in finding.message for finding in findings] == [True]
    assert_close(plain, same, 2e-5)


def test_persistent_out_of_memory_is_an_error(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: NextTokenObjective, micro_batch: Any) -> torch.Tensor:
        raise MemoryError

    monkeypatch.setattr(NextTokenObjective, "loss", fail)
    with pytest.raises(TrainingError, match="after halving them 3 times"):
        train(tmp_path, tiny_folder, options())


def test_other_runtime_errors_are_not_out_of_memory() -> None:
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_adapters_over_a_bf16_base_are_fp32_and_trained(tmp_path: Path, tiny_folder: Path) -> None:
    trained, _ = train(tmp_path, tiny_folder, options(precision="bf16", max_steps=1))
    assert {tensor.dtype for tensor in trained.values()} == {torch.float32}
    for name, tensor in trained.items():
        assert tensor.abs().max() > 0, name


def test_the_learning_rate_follows_the_schedule(tmp_path: Path, tiny_folder: Path) -> None:
    config = options(epochs=10, schedule__type="linear", schedule__warmup_ratio=0.1, batch_size=7)
    _, events = train(tmp_path, tiny_folder, config)
    steps = [event for event in events if isinstance(event, StepFinished)]
    assert len(steps) == 4 * 10  # ceil(24 / 7) batches an epoch
    assert steps[3].learning_rate == pytest.approx(1e-2)
    assert steps[-1].learning_rate < 1e-2 / 30
    assert sum(step.rows for step in steps) == 24 * 10


class UntrainedRow(SupervisedTask):
    """A task in which one row has no trained token, as a row that turns out to be unusable."""

    def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
        prepared = super().prepare(session, data)
        assert isinstance(data, TokenizedRecords)
        examples = list(data.examples)
        examples[5] = replace(examples[5], trained=[False] * len(examples[5]))
        objective = NextTokenObjective(session.adapted, examples, packing=True)
        return replace(prepared, objective=objective)


@pytest.mark.parametrize("full", [False, True])
def test_a_batch_without_a_trained_token_changes_nothing(
    tmp_path: Path, tiny_folder: Path, full: bool
) -> None:
    config = options(full=full, batch_size=1, optimizer__weight_decay=0.1)
    events: list[Event] = []
    snapshots: list[torch.Tensor] = []

    class Watched(UntrainedRow):
        def prepare(self, session: TrainingSession, data: SupervisedData) -> PreparedTraining:
            prepared = super().prepare(session, data)
            names = prepared.adapted.named_trainable_parameters
            watched.extend(parameter for _, parameter in names)
            return prepared

    watched: list[torch.nn.Parameter] = []

    def emit(event: Event) -> None:
        events.append(event)
        if isinstance(event, StepFinished):
            snapshots.append(torch.cat([p.detach().flatten().clone() for p in watched]))

    trainer.train(job(tmp_path, config, emit, tiny_folder), Watched())
    steps = [event for event in events if isinstance(event, StepFinished)]
    (empty,) = (n for n, step in enumerate(steps) if step.trained_tokens == 0)
    assert empty > 0 and (steps[empty].loss, steps[empty].gradient_norm) == (0.0, 0.0)
    assert torch.equal(snapshots[empty], snapshots[empty - 1])
    assert not torch.equal(snapshots[empty + 1], snapshots[empty])
