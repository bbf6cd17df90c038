"""The loss on validation rows during training: its value, and what it chooses."""

from __future__ import annotations

import json
import shutil
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
from tunesmith.errors import IntegrityError, RunStopped, TunesmithWarning
from tunesmith.events import Event, FindingReported, Monitored, StepFinished, TrainingFinished
from tunesmith.execution.report import build_report
from tunesmith.records import Completion, Message, Preference, Record, UnpairedPreference
from tunesmith.storage import Checkpoints
from tunesmith_evidence import fit
from tunesmith_evidence.number_text import format_estimate
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_plugins.techniques.preference.options import PreferenceOptions
from tunesmith_plugins.techniques.preference.task import PreferenceTask
from tunesmith_plugins.techniques.rlhf.options import RewardStage
from tunesmith_plugins.techniques.rlhf.reward_task import RewardTask
from tunesmith_torch.data.templates import Template
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.training import checkpoint_writer, trainer
from tunesmith_torch.training.row_losses import RowLosses
from tunesmith_torch.training.supervised import SupervisedTask
from tunesmith_torch.training.validation import VALIDATION, VALIDATION_FILE, validation_loss_rise

CPU = torch.device("cpu")


def rows(part: str, count: int, answer: str) -> tuple[Record, ...]:
    return tuple(
        Completion(
            source=f"{part}:{n}",
            prompt=f"What is {n}?" * (1 + n % 3),
            completion=f"{answer} " * (1 + n % 4),
        )
        for n in range(count)
    )


TRAIN = rows("train", 24, "ten")
SAME, OTHER = rows("validation", 6, "ten"), rows("validation", 6, "card refund")
"""Validation rows that training makes likelier, and validation rows that it makes less likely in
the end."""


def options(kind: Any = LoraOptions, **changes: Any) -> Any:
    base = {
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "validation__every": 1,
        "checkpoints__every": 1000,
    }
    return build(kind, **{**base, **changes})


def train(
    folder: Path,
    model: Path,
    config: Any,
    validation: Sequence[Record] = SAME,
    *,
    task: Any = None,
    records: Sequence[Record] = TRAIN,
    emit: Callable[[Event], None] = lambda event: None,
) -> tuple[dict[str, torch.Tensor], list[Event]]:
    """Train; return the artifact's tensors and the events."""
    folder.mkdir(parents=True, exist_ok=True)
    events: list[Event] = []

    def record(event: Event) -> None:
        events.append(event)
        emit(event)

    job: Job[Any] = Job(
        config=config,
        model=model,
        train=records,
        validation=validation,
        out=folder,
        seed=3,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=record,
        technique="test",
    )
    artifact = trainer.train(job, task or SupervisedTask())
    tensors: dict[str, torch.Tensor] = {}
    for file in sorted(artifact.path.glob("*.safetensors")):
        tensors |= load_file(file)
    return tensors, events


def monitored(events: Sequence[Event]) -> list[Monitored]:
    return [event for event in events if isinstance(event, Monitored)]


def stop_at(step: int) -> Callable[[Event], None]:
    def stop(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == step:
            raise RunStopped("enough")

    return stop


def plain_loss(folder: Path, records: Sequence[Record]) -> float:
    """Return the mean loss of the records' tokens by transformers' own logits, row by row."""
    base = load_model(folder, CPU, pick_precision(CPU, "fp32"), packing=False)
    template = Template.from_tokenizer(base.tokenizer)
    total, count = 0.0, 0
    for record in records:
        (example,) = template.tokenize_record(record, 512)
        ids = torch.tensor(list(example.ids), dtype=torch.long)[None]
        labels = torch.where(torch.tensor(list(example.trained)).bool(), ids[0], -100)
        with torch.no_grad():
            logits_TV = base.model(ids).logits[0]
        total += float(F.cross_entropy(logits_TV[:-1], labels[1:], reduction="sum"))
        count += int((labels[1:] != -100).sum())
    return total / count


@pytest.mark.parametrize("layout", [{}, {"packing": False}, {"micro_batch_tokens": 40}], ids=str)
def test_the_losses_are_those_of_plain_torch_code(
    tmp_path: Path, tiny_folder: Path, layout: dict[str, Any]
) -> None:
    """Before the first step, and of the artifact after the last one."""
    config = options(FullOptions, learning_rate=1e-3, **layout)
    _, events = train(tmp_path, tiny_folder, config)
    first, last = monitored(events)[0], monitored(events)[-1]
    assert (first.step, last.step) == (0, 6)
    assert first.metrics["validation_loss"] == pytest.approx(
        plain_loss(tiny_folder, SAME), rel=1e-5
    )
    assert last.best
    saved = tmp_path / "model"
    assert last.metrics["validation_loss"] == pytest.approx(plain_loss(saved, SAME), rel=1e-5)
    sample = json.loads((tmp_path / "validation.json").read_text())["last"]
    assert len(sample["losses"]) == len(SAME)
    assert first.metrics["train_loss"] > last.metrics["train_loss"]


def test_a_common_prefix_and_weights_change_no_loss(tmp_path: Path, tiny_folder: Path) -> None:
    system = "You answer card questions with one word, and never with more than one word. " * 3
    records = tuple(
        Completion(source=f"s:{n}", prompt=f"{system}{n}?", completion="ten " * (1 + n % 3))
        for n in range(12)
    )
    _, events = train(tmp_path, tiny_folder, options(), records[:4], records=records[4:])
    assert monitored(events)[0].metrics["validation_loss"] == pytest.approx(
        plain_loss(tiny_folder, records[:4]), rel=1e-5
    )


@pytest.mark.parametrize("kind", [LoraOptions, FullOptions])
def test_evaluating_does_not_change_the_training(
    tmp_path: Path, tiny_folder: Path, kind: Any
) -> None:
    dropout = {"adapter__dropout": 0.1} if kind is LoraOptions else {}
    off = {"validation__every": 0}
    without, events = train(tmp_path / "off", tiny_folder, options(kind, **dropout, **off))
    assert not monitored(events)
    last = {"validation__keep_best": False}
    evaluated, events = train(tmp_path / "on", tiny_folder, options(kind, **dropout, **last))
    assert len(monitored(events)) == 7
    assert all(torch.equal(without[name], evaluated[name]) for name in without)


def test_the_artifact_is_the_checkpoint_with_the_lowest_validation_loss(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The weights are those that a training of so many steps has: the last step's are others."""
    config = options(epochs=4, schedule__type="constant")
    best_weights, events = train(tmp_path / "best", tiny_folder, config, OTHER)
    found = monitored(events)
    validation = {event.step: event.metrics["validation_loss"] for event in found if event.step}
    step = min(validation, key=validation.__getitem__)
    assert 0 < step < 12
    assert [event.step for event in found if event.best][-1] == step
    plain = options(epochs=4, schedule__type="constant", validation__keep_best=False)
    at_step, _ = train(
        tmp_path / "short", tiny_folder, plain.model_copy(update={"max_steps": step}), OTHER
    )
    last_weights, _ = train(tmp_path / "last", tiny_folder, plain, OTHER)
    assert all(torch.equal(best_weights[name], at_step[name]) for name in at_step)
    assert not all(torch.equal(best_weights[name], last_weights[name]) for name in at_step)
    (finding,) = [e for e in events if isinstance(e, FindingReported) and e.source == VALIDATION]
    assert f"kept step {step}: " in finding.message
    assert "step 12: higher by" in finding.message
    (finished,) = [event for event in events if isinstance(event, TrainingFinished)]
    assert finished.steps == 12


def test_patience_stops_training(tmp_path: Path, tiny_folder: Path) -> None:
    config = options(epochs=4, schedule__type="constant", validation__patience=2)
    _, events = train(tmp_path, tiny_folder, config, OTHER)
    best = [event.step for event in monitored(events) if event.best][-1]
    steps = [event for event in events if isinstance(event, StepFinished)]
    (finished,) = [event for event in events if isinstance(event, TrainingFinished)]
    assert len(steps) == finished.steps == best + 2 < 12
    assert finished.tokens == sum(step.tokens for step in steps)


OVERTRAINED = {"epochs": 4, "schedule__type": "constant", "adapter__dropout": 0.1}
"""The validation loss of OTHER is lowest at step 4 of 12."""


@pytest.fixture(scope="module")
def complete(
    tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path
) -> tuple[dict[str, torch.Tensor], list[Event], str]:
    """An uninterrupted training: artifact, events and the losses that it leaves in a file."""
    folder = tmp_path_factory.mktemp("complete")
    weights, events = train(folder, tiny_folder, options(**OVERTRAINED), OTHER)
    return weights, events, (folder / "validation.json").read_text()


@pytest.mark.parametrize(
    ("stop", "every"),
    [
        (4, 1),
        *(pytest.param(*case, marks=pytest.mark.long) for case in ((2, 1000), (9, 3), (12, 1000))),
    ],
)
def test_a_resumed_run_makes_the_same_choice(
    tmp_path: Path, tiny_folder: Path, complete: Any, stop: int, every: int
) -> None:
    """Stopped before, at and after the best step; checkpoints at each step, at some, at none."""
    config = options(**OVERTRAINED, checkpoints__every=every)
    with pytest.raises(RunStopped):
        train(tmp_path, tiny_folder, config, OTHER, emit=stop_at(stop))
    resumed, later = train(tmp_path, tiny_folder, config, OTHER)
    weights, events, losses = complete
    assert [event.step for event in monitored(events) if event.best][-1] == 4
    assert all(torch.equal(weights[name], resumed[name]) for name in weights)
    assert monitored(later) == [event for event in monitored(events) if event.step >= stop]
    assert (tmp_path / "validation.json").read_text() == losses


def test_the_best_checkpoint_is_kept_besides_the_newest_ones(
    tmp_path: Path, tiny_folder: Path
) -> None:
    config = options(epochs=4, schedule__type="constant", checkpoints__every=1, checkpoints__keep=1)
    _, events = train(tmp_path, tiny_folder, config, OTHER)
    best = [event.step for event in monitored(events) if event.best][-1]
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    assert checkpoints.steps() == [best, 11]
    kept = checkpoints.best()
    assert kept is not None and kept.step == best


def test_the_disk_has_room_for_the_best_checkpoint_besides(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    required: list[int] = []
    monkeypatch.setattr(
        checkpoint_writer, "require_free_space", lambda folder, size: required.append(size)
    )
    for every in (0, 3):
        train(tmp_path / str(every), tiny_folder, options(max_steps=1, validation__every=every))
    without, with_best = required
    # Weights of three kinds for keep + 1 checkpoints, one more for the best, and the artifact.
    assert with_best / without == pytest.approx((3 * 4 + 1) / (3 * 3 + 1))


def test_a_best_checkpoint_that_is_gone_does_not_end_the_run(
    tmp_path: Path, tiny_folder: Path
) -> None:
    def delete(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 12:
            shutil.rmtree(tmp_path / "run" / "checkpoints")

    plain = options(epochs=4, schedule__type="constant", validation__keep_best=False)
    last, _ = train(tmp_path / "last", tiny_folder, plain, OTHER)
    config = options(epochs=4, schedule__type="constant")
    weights, events = train(tmp_path / "run", tiny_folder, config, OTHER, emit=delete)
    warnings = [
        e.message for e in events if isinstance(e, FindingReported) and e.level == "warning"
    ]
    assert warnings == [
        "step 12: the best checkpoint is missing; using this step's weights instead"
    ]
    assert all(torch.equal(weights[name], last[name]) for name in last)


def test_a_damaged_best_checkpoint_is_an_error(tmp_path: Path, tiny_folder: Path) -> None:
    def damage(event: Event) -> None:
        if isinstance(event, StepFinished) and event.step == 12:
            for file in (tmp_path / "checkpoints").glob("*/*.safetensors"):
                file.write_bytes(file.read_bytes()[:-1] + b"x")

    config = options(epochs=4, schedule__type="constant")
    with (
        pytest.raises(IntegrityError, match="the best checkpoint is missing"),
        pytest.warns(TunesmithWarning, match="checkpoint is damaged"),
    ):
        train(tmp_path, tiny_folder, config, OTHER, emit=damage)


def test_without_validation_rows_there_is_one_line(tmp_path: Path, tiny_folder: Path) -> None:
    _, events = train(tmp_path, tiny_folder, options(), ())
    assert not monitored(events)
    (finding,) = [event for event in events if isinstance(event, FindingReported)]
    text = "no validation rows: skipping validation; the artifact is the last step"
    assert (finding.level, finding.message) == ("info", text)


def test_validation_rows_that_are_too_long_are_skipped(tmp_path: Path, tiny_folder: Path) -> None:
    long = Completion(source="validation:9", prompt="card " * 90, completion="ten")
    config = options(max_length=60)
    _, events = train(tmp_path / "some", tiny_folder, config, (*SAME, long))
    assert len(json.loads((tmp_path / "some/validation.json").read_text())["best"]["losses"]) == 6
    _, events = train(tmp_path / "none", tiny_folder, config, (long,))
    (finding,) = [event for event in events if isinstance(event, FindingReported)]
    assert finding.message.startswith("no usable validation rows: ")


GROUPS = ["a", "a", "a", "b", "b", "b"]


def test_rows_of_a_group_are_one_unit_of_the_rise(tmp_path: Path, tiny_folder: Path) -> None:
    """In the finding and in the diagnosis; a row that is skipped shifts no group."""
    grouped = [replace(row, group=g) for row, g in zip(OTHER, GROUPS, strict=True)]
    long = Completion(source="validation:9", prompt="card " * 90, completion="ten", group="c")
    config = options(**OVERTRAINED, max_length=60)
    _, alone = train(tmp_path / "alone", tiny_folder, config, OTHER)
    _, events = train(tmp_path / "grouped", tiny_folder, config, [long, *grouped])
    losses = json.loads((tmp_path / "grouped" / VALIDATION_FILE).read_text())
    assert losses["best"]["groups"] == losses["last"]["groups"] == GROUPS
    rise = validation_loss_rise(RowLosses(**losses["best"]), RowLosses(**losses["last"]))
    text = format_estimate(rise.value, rise.low, rise.high)
    findings = [e.message for e in (*alone, *events) if isinstance(e, FindingReported)]
    assert [text in finding for finding in findings if "higher by" in finding] == [False, True]
    finished = [event for event in events if isinstance(event, TrainingFinished)]
    diagnosis = fit.diagnose_fit(tmp_path / "grouped", build_report(finished))
    assert diagnosis is not None and diagnosis.values["validation_rise_low"] == rise.low


@pytest.mark.parametrize("task", [PreferenceTask(), RewardTask()])
def test_pairs_have_groups(tmp_path: Path, tiny_folder: Path, task: Any) -> None:
    kind = RewardStage if isinstance(task, RewardTask) else PreferenceOptions
    long = replace(pairs("d", 1)[0], chosen="card " * 90, group="c")
    validation = [long, *(replace(p, group=g) for p, g in zip(pairs("d", 6), GROUPS, strict=True))]
    config = options(kind, max_length=60, max_steps=1)
    train(tmp_path, tiny_folder, config, validation, task=task, records=pairs("t", 12))
    assert json.loads((tmp_path / VALIDATION_FILE).read_text())["last"]["groups"] == GROUPS


def pairs(part: str, count: int, *, swapped: bool = False) -> tuple[Preference, ...]:
    answers = ("ten", "no never") if not swapped else ("no never", "ten")
    return tuple(
        Preference(
            source=f"{part}:{n}",
            prompt=(Message("user", f"{part} {n}?"),),
            chosen=answers[0],
            rejected=answers[1],
        )
        for n in range(count)
    )


LABELLED: tuple[Record, ...] = tuple(
    UnpairedPreference(
        source=f"l:{n}",
        prompt=(Message("user", f"{n}?"),),
        completion="ten" if n % 2 else "no never",
        label=bool(n % 2),
    )
    for n in range(16)
)


@pytest.mark.parametrize(
    "loss",
    [
        "dpo",
        "kto",
        "reward",
        *(pytest.param(x, marks=pytest.mark.long) for x in ("ipo", "orpo", "simpo")),
    ],
)
def test_losses_on_pairs(tmp_path: Path, tiny_folder: Path, loss: str) -> None:
    """Of the untrained model DPO's loss is log 2; accuracy and margin rise on like pairs."""
    reward = loss == "reward"
    changes = {} if reward else {"loss__type": loss}
    config = options(RewardStage if reward else PreferenceOptions, epochs=3, **changes)
    task = RewardTask() if reward else PreferenceTask()
    records, validation = (
        (LABELLED[:12], LABELLED[12:]) if loss == "kto" else (pairs("t", 12), pairs("d", 4))
    )
    _, events = train(tmp_path / "a", tiny_folder, config, validation, task=task, records=records)
    first, last = monitored(events)[0].metrics, monitored(events)[-1].metrics
    if loss == "dpo":
        assert first["validation_loss"] == pytest.approx(0.6931, abs=1e-4)
    if loss == "kto":
        assert first["validation_loss"] == pytest.approx(0.5, abs=1e-4)
    else:
        assert last["validation_accuracy"] == 1.0
    assert last["validation_loss"] < first["validation_loss"]
    assert last["validation_reward_margin"] > first["validation_reward_margin"]


def test_a_resumed_preference_run_has_the_reference_of_the_start(
    tmp_path: Path, tiny_folder: Path
) -> None:
    config = options(PreferenceOptions, epochs=4)
    parts = {"task": PreferenceTask(), "records": pairs("t", 12)}
    validation = pairs("d", 4, swapped=True)
    complete, events = train(tmp_path / "complete", tiny_folder, config, validation, **parts)
    with pytest.raises(RunStopped):
        train(tmp_path / "resumed", tiny_folder, config, validation, **parts, emit=stop_at(4))
    resumed, later = train(tmp_path / "resumed", tiny_folder, config, validation, **parts)
    assert monitored(later) == [event for event in monitored(events) if event.step >= 4]
    assert all(torch.equal(complete[name], resumed[name]) for name in complete)


def test_the_diagnosis_of_the_fit_reads_the_losses(tmp_path: Path, complete: Any) -> None:
    """The validation loss of OTHER has risen since its lowest value, if not clearly on six rows."""
    _, events, losses = complete
    (tmp_path / fit.VALIDATION_FILE).write_text(losses)
    assert fit.VALIDATION_FILE == VALIDATION_FILE
    finished = [event for event in events if isinstance(event, TrainingFinished)]
    diagnosis = fit.diagnose_fit(tmp_path, build_report(finished))
    assert diagnosis is not None
    validation = {event.step: event.metrics["validation_loss"] for event in monitored(events)}
    assert diagnosis.values["validation_rise"] == pytest.approx(validation[12] - validation[4])


def test_options_that_contradict_each_other() -> None:
    for changes in ({"validation__keep_best": False}, {"validation__every": 0}):
        with pytest.raises(ValueError, match="`patience` "):
            options(validation__patience=2, **changes)
