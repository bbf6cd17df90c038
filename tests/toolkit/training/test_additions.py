"""Additions to a training: against plain torch code, and every promise of the loop with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from addition_plugin import OWN_ROWS, SteadyOptions, steady_addition
from safetensors.torch import load_file
from tables import build

from tunesmith.additions import Addition
from tunesmith.contracts import Job
from tunesmith.errors import IntegrityError, PluginError, RunStopped, TrainingError, UsageError
from tunesmith.events import Event, FindingReported, StepFinished, TrainingFinished, TrainingStarted
from tunesmith.fence import attribute_errors_to
from tunesmith.offers import Plugin
from tunesmith.records import Completion, Record
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training import auto_parallel, trainer
from tunesmith_torch.training.additions import (
    AdditionContext,
    Additions,
    BuiltAddition,
    TrainingAddition,
    Update,
    micro_batches,
)
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.trainer import TrainingTask

CPU = torch.device("cpu")
RECORDS: tuple[Record, ...] = tuple(
    Completion(
        source=f"rows:{n}", prompt=f"What is {n}?" * (1 + n % 3), completion="ten " * (1 + n % 7)
    )
    for n in range(12)
)
PLUGIN = Plugin(name="steady", distribution="tunesmith-steady", version="1", module="steady")
BOTH = {"l2": 0.5, "kl": 2.0}
"""Weights with which both terms have about the size of the loss."""


def steady(**keys: Any) -> Addition:
    """Return the addition of ``[steady]`` with these options, as the core hands it over."""
    found = steady_addition(SteadyOptions(**keys))
    assert found is not None
    return named(found)


def named(addition: Addition, table: str = "steady") -> Addition:
    return replace(
        addition, table=table, blame=lambda: attribute_errors_to(PLUGIN, f" in [{table}]")
    )


def added(part: Callable[[AdditionContext], Any]) -> Addition:
    return named(Addition(build=part))


class Trained:
    """A training with additions: its events, and the tensors of its artifact."""

    def __init__(
        self,
        out: Path,
        model: Path,
        *additions: Addition,
        full: bool = False,
        stop: int | None = None,
        records: Sequence[Record] = RECORDS,
        validation: Sequence[Record] = (),
        task: TrainingTask[Any] | None = None,
        config: Any = None,
        **changes: Any,
    ) -> None:
        out.mkdir(parents=True, exist_ok=True)
        self.events: list[Event] = []
        keys = {
            "epochs": 2,
            "batch_size": 4,
            "learning_rate": 1e-2,
            "precision": "fp32",
            "schedule__warmup_ratio": 0.0,
            **changes,
        }
        self.job: Job[Any] = Job(
            config=config or build(FullOptions if full else LoraOptions, **keys),
            model=model,
            train=records,
            validation=validation,
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=self.record,
            technique="test",
            additions=additions,
        )
        self.stop = stop
        self.artifact = trainer.train(self.job, task or SupervisedTask())
        (weights,) = self.artifact.path.glob("*model*.safetensors")
        self.weights = load_file(weights)

    def record(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, StepFinished) and event.step == self.stop:
            raise RunStopped("enough")

    @property
    def steps(self) -> list[StepFinished]:
        return [event for event in self.events if isinstance(event, StepFinished)]

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]

    @property
    def terms(self) -> list[float]:
        return [step.metrics["steady.term"] for step in self.steps]

    def distance(self, start: dict[str, torch.Tensor]) -> float:
        """Return the distance of the weights from these."""
        return math.sqrt(sum(float((x - start[n]).pow(2).sum()) for n, x in self.weights.items()))


def assert_equal(one: Trained, other: Trained) -> None:
    assert one.weights.keys() == other.weights.keys()
    assert all(torch.equal(x, other.weights[name]) for name, x in one.weights.items())


def assert_close(one: Trained, other: Trained, tolerance: float = 2e-5) -> None:
    assert one.losses == pytest.approx(other.losses, rel=1e-4)
    assert one.terms == pytest.approx(other.terms, rel=1e-3, abs=1e-6)
    for name, tensor in one.weights.items():
        torch.testing.assert_close(tensor, other.weights[name], rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------- against plain code


def test_full_training_equals_plain_torch_code(tmp_path: Path, tiny_folder: Path) -> None:
    """Both terms and the projection, with transformers' own logits and torch's AdamW."""
    keys = {"schedule__type": "constant", "optimizer__max_grad_norm": 1e9, "batch_size": 12}
    keys |= {"optimizer__weight_decay": 0.1, "epochs": 4}
    run = Trained(
        tmp_path, tiny_folder, steady(**BOTH, directions=5, growth=0.5), full=True, **keys
    )
    base = load_model(tiny_folder, CPU, pick_precision(CPU, "fp32"), packing=False)
    model, template = base.model, Template.from_tokenizer(base.tokenizer)
    examples = template.tokenize_records(RECORDS, 512).examples
    ids, own_ids = (
        [torch.tensor([*e.ids], dtype=torch.long)[None] for e in each]
        for each in (examples, template.tokenize_records(OWN_ROWS, 512).examples)
    )
    named_parameters = dict(model.named_parameters())
    start = {name: p.detach().clone() for name, p in named_parameters.items()}
    with torch.no_grad():
        references = [model(row).logits.log_softmax(-1) for row in own_ids]
    count = sum(p.numel() for p in named_parameters.values())
    generator = torch.Generator().manual_seed(3)
    basis = torch.linalg.qr(torch.randn(count, 5, generator=generator)).Q
    decayed = [p for p in named_parameters.values() if p.ndim >= 2]
    others = [p for p in named_parameters.values() if p.ndim < 2]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0}]
    adamw = torch.optim.AdamW(groups, lr=1e-2)
    for step in range(4):
        labels = [
            torch.where(torch.tensor([*e.trained]), row[0], -100)
            for e, row in zip(examples, ids, strict=True)
        ]
        pairs = zip(ids, labels, strict=True)
        parts = [F.cross_entropy(model(x).logits[0, :-1], y[1:], reduction="sum") for x, y in pairs]
        loss = sum(parts) / sum(int((y[1:] >= 0).sum()) for y in labels)
        rows = [(3 * step + n) % 11 for n in range(3)]
        divergence = torch.zeros(())
        for row in rows:
            reference, own = references[row], model(own_ids[row]).logits.log_softmax(-1)
            divergence = divergence + (reference.exp() * (reference - own)).sum()
        distance = sum((p - start[name]).pow(2).sum() for name, p in named_parameters.items())
        term = 0.5 * distance + 2.0 * divergence / sum(own_ids[row].numel() for row in rows)
        term = term * (1 + 0.5 * (step + 1))
        assert run.losses[step] == pytest.approx(loss.item(), rel=1e-4)
        assert run.terms[step] == pytest.approx(term.item(), rel=1e-3, abs=1e-6)
        before = torch.cat([p.detach().flatten() for p in named_parameters.values()])
        adamw.zero_grad()
        (loss + term).backward()
        adamw.step()
        change = torch.cat([p.detach().flatten() for p in named_parameters.values()]) - before
        change = change - basis @ (basis.T @ change)
        torch.nn.utils.vector_to_parameters(before + change, list(named_parameters.values()))
    for name, tensor in run.weights.items():
        torch.testing.assert_close(tensor, named_parameters[name].detach(), rtol=2e-4, atol=2e-5)


# --------------------------------------------------------------------------- promises of the loop


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("layout", [{"micro_batch_tokens": 1}, {"micro_batch_tokens": 70}], ids=str)
def test_terms_do_not_depend_on_micro_batches(
    tmp_path: Path, tiny_folder: Path, full: bool, layout: dict[str, Any]
) -> None:
    keys = {**BOTH, "rows": 5}
    plain = Trained(tmp_path / "a", tiny_folder, steady(**keys), full=full)
    other = Trained(tmp_path / "b", tiny_folder, steady(**keys), full=full, **layout)
    assert_close(plain, other)


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_resumed_run_ends_with_identical_weights(
    tmp_path: Path, tiny_folder: Path, optimizer: str, precision: str
) -> None:
    """Also where the term depends on the state of the addition."""
    keys = {"full": True, "optimizer__name": optimizer, "precision": precision, "epochs": 3}
    addition = steady(**BOTH, directions=3, growth=0.5)
    complete = Trained(tmp_path / "complete", tiny_folder, addition, **keys)
    with pytest.raises(RunStopped):
        Trained(tmp_path / "resumed", tiny_folder, addition, stop=4, **keys)
    resumed = Trained(tmp_path / "resumed", tiny_folder, addition, **keys)
    assert resumed.losses == complete.losses[4:]
    assert resumed.terms == complete.terms[4:]
    assert_equal(complete, resumed)


def test_a_checkpoint_without_the_state_is_refused(tmp_path: Path, tiny_folder: Path) -> None:
    with pytest.raises(RunStopped):
        Trained(tmp_path, tiny_folder, stop=2)
    with pytest.raises((IntegrityError, PluginError), match="draws"):
        Trained(tmp_path, tiny_folder, steady(l2=1.0))


class Watching(TrainingAddition):
    """Measures how much of each update lies in a subspace, after others have changed it."""

    def __init__(self, context: AdditionContext, directions: int) -> None:
        count = sum(p.numel() for p in context.parameters.values())
        generator = torch.Generator().manual_seed(context.job.seed)
        self.basis = torch.linalg.qr(torch.randn(count, directions, generator=generator)).Q
        self.leaks: list[float] = []

    def transform_update(self, update: Update) -> None:
        parts = [update.after[name] - update.before[name] for name in update.after]
        change = torch.cat([part.flatten() for part in parts])
        assert change.norm() > 0
        self.leaks.append(float((self.basis.T @ change).norm() / change.norm()))


@pytest.mark.parametrize("optimizer", ["adamw", "adamw-8bit"])
@pytest.mark.parametrize("full", [False, True])
def test_a_projection_holds_for_the_applied_update(
    tmp_path: Path, tiny_folder: Path, full: bool, optimizer: str
) -> None:
    """With weight decay, with 8 bits, and after a run was resumed; without it, it does not."""
    watching: list[Watching] = []

    def watch(context: AdditionContext) -> Watching:
        watching.append(Watching(context, 4))
        return watching[-1]

    keys = {"full": full, "optimizer__weight_decay": 0.1, "optimizer__name": optimizer}
    additions = [steady(directions=4), named(Addition(build=watch), "watching")]
    with pytest.raises(RunStopped):
        Trained(tmp_path / "a", tiny_folder, *additions, stop=3, **keys)
    Trained(tmp_path / "a", tiny_folder, *additions, **keys)
    leaks = [leak for each in watching for leak in each.leaks]
    assert len(leaks) == 6 and max(leaks) <= 1e-5
    watching.clear()
    Trained(tmp_path / "b", tiny_folder, additions[1], **keys)
    assert min(watching[0].leaks) > 1e-3


def test_an_update_can_be_undone(tmp_path: Path, tiny_folder: Path) -> None:
    run = Trained(tmp_path, tiny_folder, steady(freeze=True), full=True, precision="bf16")
    base = load_file(tiny_folder / "model.safetensors")
    assert all(torch.equal(x, base[name].to(x.dtype)) for name, x in run.weights.items())


@pytest.mark.parametrize("full", [False, True])
def test_an_addition_that_does_nothing_changes_nothing(
    tmp_path: Path, tiny_folder: Path, full: bool
) -> None:
    """It is built with the initial weights; methods that it lacks are not called."""
    seen: list[AdditionContext] = []

    def build(context: AdditionContext) -> object:
        seen.append(context)
        return object()

    dropout = {} if full else {"adapter__dropout": 0.1}
    plain = Trained(tmp_path / "a", tiny_folder, full=full, **dropout)
    other = Trained(tmp_path / "b", tiny_folder, added(build), full=full, **dropout)
    assert plain.losses == other.losses
    assert_equal(plain, other)
    (context,) = seen
    assert context.folder == other.job.out / "additions" / "steady" and context.folder.is_dir()
    assert context.is_text_model and context.limit <= 512
    assert context.steps == len(other.steps)
    started = next(e for e in other.events if isinstance(e, TrainingStarted))
    assert started.details["additions"] == ["steady"]
    findings = [
        e.message for e in other.events if isinstance(e, FindingReported) and e.source == "steady"
    ]
    assert findings == ["this table has no effect on training"]


def test_a_distance_keeps_the_weights_near_the_start(tmp_path: Path, tiny_folder: Path) -> None:
    start = load_file(tiny_folder / "model.safetensors")
    free = Trained(tmp_path / "a", tiny_folder, full=True)
    held = Trained(tmp_path / "b", tiny_folder, steady(l2=10.0), full=True)
    assert held.distance(start) < 0.7 * free.distance(start)
    assert held.terms[0] == 0.0 and held.terms[-1] > 0.0


def test_memory_that_runs_out_in_a_term_halves_the_micro_batches(
    tmp_path: Path, tiny_folder: Path
) -> None:
    failures: list[int] = []

    def build(context: AdditionContext) -> TrainingAddition:
        term: Any = steady(**BOTH).build(context)

        class Tight(type(term)):  # type: ignore[misc]
            def term(self, items: Sequence[Any]) -> torch.Tensor:
                if not failures:
                    failures.append(len(items))
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
                return super().term(items)

        return Tight()

    plain = Trained(tmp_path / "a", tiny_folder, steady(**BOTH))
    tight = Trained(tmp_path / "b", tiny_folder, added(build))
    findings = [e for e in tight.events if isinstance(e, FindingReported) and e.source == "memory"]
    assert failures and ["2,048 tokens" in finding.message for finding in findings] == [True]
    assert_close(plain, tight)


# --------------------------------------------------------------------------- ends and errors


def test_an_addition_ends_the_training(tmp_path: Path, tiny_folder: Path) -> None:
    """The weights of that step are the artifact, also where validation rows would choose others."""
    complete = Trained(tmp_path / "complete", tiny_folder)
    ended = Trained(tmp_path / "ended", tiny_folder, steady(finish_after=3))
    assert complete.losses[:3] == ended.losses
    finished = next(e for e in ended.events if isinstance(e, TrainingFinished))
    assert finished.steps == 3
    findings = [
        e.message for e in ended.events if isinstance(e, FindingReported) and e.source == "steady"
    ]
    assert findings == ["ended training after step 3; the artifact has the weights that it left"]
    validation = [
        Completion(source=f"validation:{n}", prompt="?", completion="card refund") for n in range(3)
    ]
    chosen = Trained(
        tmp_path / "validation",
        tiny_folder,
        steady(finish_after=3),
        validation=validation,
        validation__every=1,
    )
    assert_equal(ended, chosen)
    texts = [
        e.message
        for e in chosen.events
        if isinstance(e, FindingReported) and "validation loss" in e.message
    ]
    assert texts[-1].startswith("kept the last step; step 1: lowest validation loss")


def test_an_addition_stops_the_run_and_it_is_resumed(tmp_path: Path, tiny_folder: Path) -> None:
    complete = Trained(tmp_path / "a", tiny_folder)
    with pytest.raises(RunStopped, match="steady"):
        Trained(tmp_path / "b", tiny_folder, steady(stop_after=3))
    assert Checkpoints(tmp_path / "b" / "checkpoints").steps() == [3]
    resumed = Trained(tmp_path / "b", tiny_folder, steady(stop_after=3))
    assert resumed.losses == complete.losses[3:]
    assert_equal(complete, resumed)


class Faulty(TrainingAddition):
    """A term with a fault."""

    def __init__(self, context: AdditionContext, fault: str) -> None:
        self.parameters, self.fault = context.parameters, fault

    def term(self, items: Sequence[Any]) -> torch.Tensor:
        some = next(iter(self.parameters.values())).sum()
        match self.fault:
            case "bug":
                raise KeyError("where")
            case "constant":
                return torch.zeros(())
            case "shape":
                return some[None]
        return some * float("nan")


@pytest.mark.parametrize("fault", ["bug", "constant", "shape"])
def test_an_error_names_the_plugin_and_the_table(
    tmp_path: Path, tiny_folder: Path, fault: str
) -> None:
    with pytest.raises(PluginError, match=r'"tunesmith-steady:steady" 1 failed in \[steady\]'):
        Trained(tmp_path, tiny_folder, added(lambda context: Faulty(context, fault)))


def test_a_term_that_is_not_finite_stops_before_the_update(
    tmp_path: Path, tiny_folder: Path
) -> None:
    with pytest.raises(TrainingError, match=r"step 1: the steady\.term is not finite"):
        Trained(tmp_path, tiny_folder, added(lambda context: Faulty(context, "nan")))


# --------------------------------------------------------------------------- parts


def test_items_are_put_together_as_they_fit() -> None:
    item = BuiltAddition(Addition(build=object), object())
    drawn = [(item, [(0, "a"), (3, "b"), (9, "c"), (2, "d"), (2, "e")]), (item, [])]
    groups = [items for _, items in micro_batches(drawn, 6)]
    assert groups == [["a", "b"], ["c"], ["d", "e"]]


def test_only_methods_that_are_overridden_are_used() -> None:
    none = Additions([BuiltAddition(Addition(build=object), TrainingAddition())])
    assert none.draw(0) == [] and none.transform(0, 1.0) is None and not none.is_finished(0)
    assert none.state_dict() == {} and none.count_steps(7) == 7

    class Plain:
        def term(self, items: Sequence[Any]) -> torch.Tensor:
            return torch.ones((), requires_grad=True)

    plain = Additions([BuiltAddition(Addition(build=object, table="t"), Plain())])
    ((item, items),) = plain.draw(0)
    assert items == [(0, None)] and item.term_name == "t.term" and item.term(items).item() == 1.0


def test_weights_are_not_sharded(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Trained(tmp_path, tiny_folder, steady(l2=1.0), max_steps=1)
    assert auto_parallel.resolve_parallel(run.job, SupervisedTask().grouping).config.parallel == (
        "data"
    )
    monkeypatch.setattr(auto_parallel.distributed, "world_size", lambda: 2)
    config = run.job.config.model_copy(update={"parallel": "sharded"})
    with pytest.raises(UsageError, match=r"\[steady\]: the table needs all weights on each rank"):
        auto_parallel.resolve_parallel(replace(run.job, config=config), SupervisedTask().grouping)
