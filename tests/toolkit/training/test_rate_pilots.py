"""Pilot runs choose the learning rate, and leave no other trace in the training."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from tables import build

from tunesmith.contracts import Job, Measurement, Scorer, TextModel
from tunesmith.errors import RunStopped, UsageError
from tunesmith.events import (
    Event,
    FindingReported,
    Monitored,
    PhaseAdvanced,
    StepFinished,
    TrainingStarted,
)
from tunesmith.records import Completion, Record
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.rlhf.options import RewardStage
from tunesmith_torch.memory_estimate.workload import RowLengths, build_workload
from tunesmith_torch.options.pilot_steps import PILOTS, count_pilot_steps, predict_pilot_steps
from tunesmith_torch.training import trainer
from tunesmith_torch.training.rate_pilots import RATE_FILE, Pilot, choose
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.validation_score import MAX_GENERATED_TOKENS, MIN_SCORED_ROWS

STEPS = 10


def make_rows(part: str, count: int) -> tuple[Record, ...]:
    return tuple(
        Completion(source=f"{part}:{n}", prompt=f"What is {n}?", completion="ten card")
        for n in range(count)
    )


def scorer(measure: Callable[[], float], limit: int = 8, higher: bool = True) -> Scorer:
    """Return a scorer that gives all rows the same value, another one in each measurement."""

    def measure_all(model: TextModel, records: Sequence[Record]) -> Measurement:
        model.generate([record.prompt for record in records if isinstance(record, Completion)], 2)
        return Measurement(metric="match", values=(measure(),) * len(records))

    return Scorer(higher, limit, measure_all)


class Runs:
    """Trains in folders of their own, and stops where a test asks for it."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.model = folder, model
        self.events: list[Event] = []

    def train(
        self,
        name: str,
        kind: Any = LoraOptions,
        validation: int = 20,
        match: Scorer | None = None,
        stop: Callable[[Event], bool] = lambda event: False,
        **options: Any,
    ) -> dict[str, torch.Tensor]:
        """Train or resume; return the tensors of the artifact."""
        out = self.folder / name
        out.mkdir(exist_ok=True)
        self.events = []

        def emit(event: Event) -> None:
            self.events.append(event)
            if stop(event):
                raise RunStopped("stopped by the test")

        base = {"precision": "fp32", "batch_size": 4, "max_steps": STEPS, "epochs": 9}
        job: Job[Any] = Job(
            config=build(kind, **{**base, **options}),
            model=self.model,
            train=make_rows("train", 24),
            validation=make_rows("validation", validation),
            out=out,
            seed=3,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=emit,
            technique="test",
            scorers={"match": match} if match else {},
        )
        artifact = trainer.train(job, SupervisedTask())
        return load_file(next(iter(sorted(artifact.path.glob("*.safetensors")))))

    def find(self, kind: type[Any]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def facts(self) -> Any:
        return self.find(TrainingStarted)[0].details.get("rate_pilots")

    @property
    def message(self) -> str:
        found = [e for e in self.find(FindingReported) if e.source == "technique.learning_rate"]
        return str(found[0].message) if found else ""


@pytest.fixture
def runs(tmp_path: Path, tiny_folder: Path) -> Runs:
    return Runs(tmp_path, tiny_folder)


def assert_same(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.equal(found[name], tensor), name


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        pytest.param(LoraOptions, {"adapter__dropout": 0.1}, marks=pytest.mark.long),
        (FullOptions, {"precision": "bf16"}),
    ],
)
def test_pilots_leave_the_bits_of_a_training_with_the_chosen_rate(
    runs: Runs, kind: Any, options: Any
) -> None:
    found = runs.train("auto", kind, **options)
    rate = runs.facts["rate"]
    losses = {pilot["rate"]: pilot["validation_loss"] for pilot in runs.facts["pilots"]}
    assert len(losses) == PILOTS and rate == min(losses, key=lambda r: losses[r])
    steps = [step.learning_rate for step in runs.find(StepFinished)]
    assert len(steps) == STEPS and max(steps) == rate  # no step of a pilot
    assert_same(found, runs.train("number", kind, learning_rate=rate, **options))
    assert runs.facts is None and not runs.message  # a number turns pilots off
    assert not (runs.folder / "number" / RATE_FILE).exists()
    assert not (runs.folder / "auto" / "pilots").exists()


@pytest.mark.parametrize(
    "after", [STEPS + 4, *(pytest.param(n, marks=pytest.mark.long) for n in (3, STEPS, 3 * STEPS))]
)
def test_a_run_stopped_in_its_pilots_ends_in_the_same_bits(runs: Runs, after: int) -> None:
    expected = runs.train("whole")
    facts = runs.facts

    def stop(event: Event) -> bool:
        return isinstance(event, PhaseAdvanced) and event.done == after

    with pytest.raises(RunStopped):
        runs.train("stopped", stop=stop)
    assert_same(runs.train("stopped"), expected)
    assert runs.facts == facts


@pytest.mark.long
def test_a_run_stopped_after_its_pilots_does_not_repeat_them(runs: Runs) -> None:
    expected = runs.train("whole")
    with pytest.raises(RunStopped):
        runs.train("stopped", stop=lambda e: isinstance(e, StepFinished) and e.step == 5)
    assert_same(runs.train("stopped"), expected)
    assert not runs.find(PhaseAdvanced) and runs.facts["pilots"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"validation": 15}, "16 validation rows, got 15"),
        ({"validation": 0}, "16 validation rows, got 0"),
        ({"validation__every": 0}, "16 validation rows, got 0"),
        ({"max_steps": 7}, "8 training steps, got 7"),
    ],
)
def test_too_little_to_choose_by_gives_the_default(runs: Runs, options: Any, reason: str) -> None:
    runs.train("few", **options)
    assert runs.message.startswith("2e-4, the default: ") and reason in runs.message
    peak = max(step.learning_rate for step in runs.find(StepFinished))
    assert peak == 2e-4 and runs.facts is None


def test_the_pilots_climb_until_a_rate_is_worse(runs: Runs) -> None:
    values = iter([0.9, 0.1, 0.1])
    runs.train("down", match=scorer(lambda: next(values)))
    assert [pilot["rate"] for pilot in runs.facts["pilots"]] == [2e-4, 6e-4, 7e-5]
    assert [pilot["score"] for pilot in runs.facts["pilots"]] == pytest.approx([0.9, 0.1, 0.1])
    assert runs.facts["rate"] == 2e-4 and runs.facts["by"] == "match"
    assert "largest" not in runs.message
    runs.train("up")
    assert [pilot["rate"] for pilot in runs.facts["pilots"]] == [2e-4, 6e-4, 2e-3]
    share = 100 * PILOTS * count_pilot_steps(STEPS) // STEPS
    assert runs.message.startswith(
        f"0.002, chosen from 3 on 20 validation rows ({share} % of the training tokens)"
    )
    assert "largest rate tried" in runs.message and "0.006" in runs.message


def test_a_rate_that_diverges_is_not_chosen(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith_torch.training.rate_pilots.FACTORS", (1.0, 1e30, 10.0, 0.1))
    runs.train("diverged", FullOptions)
    losses = {pilot["rate"]: pilot["validation_loss"] for pilot in runs.facts["pilots"]}
    assert losses.pop(2e25) is None and runs.facts["rate"] in losses


def test_ties_are_decided_by_the_loss() -> None:
    right = [1.0] * 20
    low = Pilot(1e-4, 0.5, [0.0] * 4 + [1.0] * 16)
    tied = Pilot(3e-4, 0.7, [*right[:19], 0.0])
    best = Pilot(1e-3, 0.9, right)
    assert choose([low, tied, best]) is tied  # one row of 20 is one standard error
    assert choose([replace(low, loss=2.0), replace(tied, loss=1.0), best]) is best
    assert choose([replace(p, values=None) for p in (low, tied, best)]).loss == 0.5
    assert choose([Pilot(1.0, math.inf), Pilot(2.0, 3.0, right)]).rate == 2.0


def test_the_length_of_pilots_depends_on_steps_alone() -> None:
    assert [count_pilot_steps(n) for n in (5, 16, 60, 1000, 10_000)] == [5, 16, 16, 40, 250]
    assert all(count_pilot_steps(a) <= count_pilot_steps(b) for a, b in pairwise(range(1, 3000)))


def test_a_forecast_counts_the_pilots_of_auto_only() -> None:
    auto, number = build(LoraOptions), build(LoraOptions, learning_rate=2e-4)
    assert [predict_pilot_steps(auto, n) for n in (7, 60, 10_000)] == [0, 48, 750]
    assert predict_pilot_steps(number, 60) == predict_pilot_steps(build(RewardStage), 60) == 0
    workloads = [
        build_workload(options, [RowLengths(20, (4,))] * 320, 1) for options in (auto, number)
    ]
    assert [(w.steps, w.pilot_steps) for w in workloads] == [(40, 48), (40, 0)]
    assert workloads[0].tokens == workloads[1].tokens


# ----------------------------------------------------------------- the best checkpoint


def test_an_evaluator_chooses_the_checkpoint(runs: Runs) -> None:
    scores = iter([0.2, 0.9, 0.9, 0.1, 0.1])
    options: dict[str, Any] = {"learning_rate": 1e-3, "validation__every": 2}
    runs.train("score", match=scorer(lambda: next(scores)), validation__by="match", **options)
    best = [event.step for event in runs.find(Monitored) if event.best]
    assert best == [2, 4, 6]  # step 6 has the score of step 4, and a lower loss
    assert any("kept step 6: best match, 0.900" in e.message for e in runs.find(FindingReported))
    runs.train("loss", match=scorer(lambda: 1.0), **options)
    losses = [event.metrics["validation_loss"] for event in runs.find(Monitored)]
    assert [e.step for e in runs.find(Monitored) if e.best] == [2, 4, 6, 8, 10]
    assert losses == sorted(losses, reverse=True)


def test_patience_counts_evaluations_without_a_better_score(runs: Runs) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.6, 0.6])
    options: dict[str, Any] = {"validation__every": 1, "validation__patience": 2}
    match = scorer(lambda: next(scores), higher=False)
    runs.train("patient", match=match, validation__by="match", learning_rate=1e-3, **options)
    assert [event.step for event in runs.find(StepFinished)] == [1, 2, 3]
    kept = [e.message for e in runs.find(FindingReported) if "kept" in e.message]
    assert kept[0].startswith("kept step 1: best match, 0.500")


def test_an_unknown_evaluator_is_named(runs: Runs) -> None:
    with pytest.raises(UsageError, match='"rouge" is not an evaluator') as caught:
        runs.train("unknown", match=scorer(lambda: 1.0), validation__by="rouge", learning_rate=1e-3)
    assert "loss, match" in str(caught.value.hint)


def test_long_answers_leave_the_choice_to_the_loss(runs: Runs) -> None:
    limit = MAX_GENERATED_TOKENS // MIN_SCORED_ROWS + 1
    runs.train("long", match=scorer(lambda: 1.0, limit))
    assert runs.facts["by"] == "loss" and runs.facts["pilots"][0]["score"] is None
    assert json.loads((runs.folder / "long" / RATE_FILE).read_text())["pilots"][0]["values"] is None
