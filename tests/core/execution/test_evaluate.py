"""Evaluation: values are stored, metrics are emitted, a wrong evaluator is named."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest

from tunesmith.contracts import Measurement, RunContext
from tunesmith.errors import IntegrityError, PluginError, TrainingError
from tunesmith.events import Event, FindingReported, Measured, PhaseAdvanced
from tunesmith.execution.emitter import Emitter
from tunesmith.execution.evaluate import (
    ProgressTextModel,
    evaluate_model,
    read_rows,
)
from tunesmith.offers import EvaluatorOffer, Metric, Offered, Plugin
from tunesmith.options import Options
from tunesmith.plan import Component
from tunesmith.records import Completion, Message, Record
from tunesmith.signals import StopSignalHandler
from tunesmith.testing import FakeTextModel

RECORDS = [
    Completion(
        source=f"f:{n}", prompt=f"q{n}", completion=f"a{n}", slices=(("lang", "de"),) if n else ()
    )
    for n in range(4)
]
PLUGIN = Plugin(name="odd", distribution="tunesmith-odd", version="3", module="m")


class EventRecorder:
    """Replaces the log and the reporters of an emitter."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def report(self, event: Event) -> list[Event]:
        self.events.append(event)
        return []

    def append(self, line: dict[str, Any], *, durable: bool) -> None:
        """Discard the line."""


class NoOptions(Options):
    """None."""


def run(
    folder: Path,
    *measurements: Measurement,
    asks: bool = False,
    opened: bool = False,
    model: FakeTextModel | None = None,
    open_model: Callable[[Path | None], Any] | None = None,
    records: Sequence[Record] = RECORDS,
    effect: Callable[[Sequence[Record]], object] = lambda records: None,
    duplicates: Sequence[int] = (),
) -> tuple[list[Measured], EventRecorder]:
    chosen = model or FakeTextModel()

    class Evaluator:
        def compare(self, model: Any, records: Any, run: RunContext) -> list[Measurement]:
            return self.measure(run.open(None) if opened else model, records)

        def measure(self, model: Any, records: Any) -> list[Measurement]:
            if asks:
                model.generate([r.prompt for r in records], 5)
                model.score([r.prompt for r in records], [r.completion for r in records])
            effect(records)
            return list(measurements)

    offer = EvaluatorOffer(
        name="odd", summary="s", config=NoOptions, build=lambda options: Evaluator(),
        metrics=(
            Metric(name="right", higher_is_better=True),
            Metric(name="loss", higher_is_better=False, unit="nats/token", bounds=(0, math.inf)),
        ),
    )  # fmt: skip
    recorder = EventRecorder()
    emit = Emitter(recorder, recorder, [], StopSignalHandler())  # type: ignore[arg-type]
    if duplicates:
        emit(
            FindingReported(
                level="warning", source="leaks", message="duplicates", test_rows=[*duplicates]
            )
        )
    component = Component(Offered(PLUGIN, offer), NoOptions())
    so_far = RunContext(
        model=folder, device="cpu", artifacts={}, open=open_model or (lambda _: chosen)
    )
    measured = evaluate_model(
        "tuned", chosen, component, records, emit, so_far, folder, replace(PLUGIN, name="technique")
    )
    return measured, recorder


def measurement(values: Any, **columns: Any) -> Measurement:
    """Return a measurement whose columns may have any type."""
    return Measurement(metric="right", values=values, **columns)


def test_an_interval_of_the_evaluator_is_that_of_all_rows(tmp_path: Path) -> None:
    given = measurement((1.0, 0.0, 1.0, 0.0), interval=(0.25, 0.75))
    [event], _ = run(tmp_path, given, duplicates=[1])
    assert (event.value, event.low, event.high) == (0.5, 0.25, 0.75)
    assert event.leakage_free["n"] == 3 and event.leakage_free["high"] > 0.75
    for interval in ((0.75, 0.25), (0.0, math.nan), (-math.inf, 1.0)):
        with pytest.raises(PluginError, match="interval from"):
            run(tmp_path, replace(given, interval=interval))


def test_metrics_are_emitted_as_the_offer_declares_them(tmp_path: Path) -> None:
    events, recorder = run(
        tmp_path,
        Measurement(metric="right", values=(1.0, 0.0, 1.0, 1.0), outputs=("a", "b", "c", "d")),
        Measurement(metric="loss", values=(1.0, 2.0, 3.0, 4.0), weights=(1.0, 1.0, 1.0, 7.0)),
    )
    right, loss = events
    assert (right.model, right.evaluator, right.metric, right.value) == (
        "tuned",
        "odd",
        "right",
        0.75,
    )
    assert right.low < 0.75 < right.high and right.n == 4 and right.higher_is_better
    assert loss.value == pytest.approx(3.4) and loss.unit == "nats/token"
    assert [event for event in recorder.events if isinstance(event, Measured)] == events


def test_a_quantity_with_a_unit_is_no_share(tmp_path: Path) -> None:
    """Four wrong answers of four may be chance; four differences of exactly 0 nats are not."""
    zeros = [0.0] * 4
    loss = Measurement(metric="loss", values=tuple(zeros))
    (right, loss_event), _ = run(tmp_path, measurement(zeros), loss)
    assert (right.low, right.high) == (0, pytest.approx(0.49, abs=0.01))
    assert (loss_event.low, loss_event.high) == (0, 0)


def test_the_interval_of_a_loss_is_not_negative(tmp_path: Path) -> None:
    """Student's interval of so few values would begin at -2.0."""
    loss = Measurement(metric="loss", values=(0.1, 0.2, 0.1, 4.0))
    (_, event), _ = run(tmp_path, measurement([0.0] * 4), loss)
    assert event.low == 0 and event.high == pytest.approx(4.2, abs=0.1)


def test_metrics_are_measured_without_duplicates_too(tmp_path: Path) -> None:
    right = measurement((1.0, 0.0, 1.0, 0.0))
    loss = Measurement(metric="loss", values=(1.0, 2.0, 3.0, 4.0), weights=(1.0, 3.0, 0.0, 1.0))
    (event, weighted), _ = run(tmp_path, right, loss, duplicates=[0, 2])
    assert (event.value, event.n, event.leakage_free["value"], event.leakage_free["n"]) == (
        0.5,
        4,
        0,
        2,
    )
    assert event.leakage_free["low"] == 0 and event.leakage_free["high"] > event.high - 0.5
    assert (weighted.leakage_free["value"], weighted.leakage_free["n"]) == (2.5, 2)
    (event,), _ = run(tmp_path, right)
    assert event.leakage_free == {}
    (event, weighted), _ = run(tmp_path, right, loss, duplicates=[0, 1, 3])
    assert event.leakage_free["value"] == 1 and weighted.leakage_free == {}, "no row has a weight"


def test_values_are_stored_per_record(tmp_path: Path) -> None:
    weights = (1.0, 2.0, 3.0, 4.0)
    ((event,), _) = run(
        tmp_path,
        Measurement(
            metric="loss", values=(1.0, 2.0, 3.0, 4.0), weights=weights, outputs=("ü",) * 4
        ),
    )
    path = tmp_path / event.records
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert lines[1] == {
        "row": 1, "source": "f:1", "prompt": [["user", "q1"]],
        "expected": "a1", "slices": {"lang": "de"},
        "loss": {"value": 2.0, "weight": 2.0}, "output": "ü",
    }  # fmt: skip
    assert path.read_bytes().isascii()
    assert read_rows(path, "loss") == lines


def test_half_a_surrogate_pair_in_an_output_is_read_back(tmp_path: Path) -> None:
    values, outputs = (1.0,) * 4, ("\ud83d", "\U0001f600", "\\ud83d", "\udc80")
    ((event,), _) = run(tmp_path, Measurement(metric="right", values=values, outputs=outputs))
    rows = read_rows(tmp_path / event.records, "right")
    assert tuple(row["output"] for row in rows) == outputs


def test_groups_are_stored_and_widen_the_interval(tmp_path: Path) -> None:
    values = (1.0, 1.0, 0.0, 0.0)
    ((ungrouped,), _) = run(tmp_path, Measurement(metric="right", values=values))
    grouped = [replace(record, group=f"g{n // 2}") for n, record in enumerate(RECORDS)]
    ((event,), _) = run(tmp_path, Measurement(metric="right", values=values), records=grouped)
    rows = read_rows(tmp_path / event.records, "right")
    assert [row["group"] for row in rows] == ["g0", "g0", "g1", "g1"]
    assert event.high - event.low > ungrouped.high - ungrouped.low


@pytest.mark.parametrize(
    ("measurement", "message"),
    [
        (
            Measurement(metric="beauty", values=(1.0,) * 4),
            'returned the metric "beauty", which its offer',
        ),
        (
            Measurement(metric="right", values=(1.0,) * 3),
            'returned 3 values of "right" for 4 records',
        ),
        (Measurement(metric="right", values=(1.0,) * 4, weights=(1.0,)), "1 weights"),
        (Measurement(metric="right", values=(1.0,) * 4, outputs=("a",)), "1 outputs"),
        (
            Measurement(
                metric="right", values=(1.0,) * 4, exchanges=[("p", Message("assistant", ""))]
            ),
            "1 exchanges",
        ),
        (measurement(None), 'None as values of "right"'),
        (measurement("1.0"), "'1.0' as values of"),
        (measurement((1.0, "0.5", 1.0, 1.0)), 'str in values of "right" for f:1; .* a number'),
        (measurement((1.0, None, 1.0, 1.0)), "NoneType in values"),
        (measurement((1.0,) * 4, weights=(1.0, -1.0, 1.0, 1.0)), "weights .* negative"),
        (measurement((1.0,) * 4, weights=(0.0,) * 4), "weights .* all zero"),
        (measurement((1.0,) * 4, outputs=("a", 1, "a", "a")), "int in outputs .* a text"),
        (None, "NoneType instead of a Measurement"),
        (measurement((1.0,) * 3, records=RECORDS[:2]), '3 values of "right" for 2 records'),
        (measurement((), records=[]), '"right" for no records'),
    ],
)
def test_an_evaluator_that_breaks_its_contract_is_named(
    tmp_path: Path, measurement: Any, message: str
) -> None:
    with pytest.raises(PluginError, match=f'"tunesmith-odd:odd" .*{message}'):
        run(tmp_path, measurement)


def test_an_evaluator_can_measure_records_of_its_own(tmp_path: Path) -> None:
    texts = [Completion(source=f"own:{n}", prompt="p", completion=f"t{n}") for n in range(6)]
    (event,), _ = run(tmp_path, measurement((1.0, 0.0) * 3, records=texts), duplicates=[0, 1])
    assert (event.n, event.value, event.leakage_free) == (6, 0.5, {})
    rows = read_rows(tmp_path / event.records, "right")
    assert [row["source"] for row in rows] == [f"own:{n}" for n in range(6)]
    loss = Measurement(metric="loss", values=(1.0,) * 4)
    with pytest.raises(PluginError, match='"loss" for no records, or not for'):
        run(tmp_path, measurement((1.0,) * 6, records=texts), loss)
    with pytest.raises(PluginError, match="right of own:5 is nan"):
        run(tmp_path, measurement((1.0,) * 5 + (math.nan,), records=texts))


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("opened", [False, True])
def test_a_value_that_is_not_finite_names_its_record(
    tmp_path: Path, value: float, opened: bool
) -> None:
    """The measured model, or another one of the run, gives scores that are not finite."""
    measurement = Measurement(metric="loss", values=(1.0, value, 1.0, 1.0))
    with pytest.raises(TrainingError, match="tuned: odd: loss of f:1 is") as caught:
        run(tmp_path, measurement, asks=True, opened=opened, model=FakeTextModel(unknown=math.nan))
    assert "learning rate" in (caught.value.hint or "")


def test_a_value_that_is_not_finite_is_the_evaluators_if_the_scores_are(tmp_path: Path) -> None:
    measurement = Measurement(metric="loss", values=(1.0, math.nan, 1.0, 1.0))
    with pytest.raises(PluginError, match=r'"tunesmith-odd:odd" 3: .*loss of f:1 is nan') as caught:
        run(tmp_path, measurement, asks=True)
    assert "learning rate" not in (caught.value.hint or "")


def test_a_metric_that_is_returned_twice_is_refused(tmp_path: Path) -> None:
    one = Measurement(metric="right", values=(1.0,) * 4)
    with pytest.raises(PluginError, match='"tunesmith-odd:odd" returned the metric "right" twice'):
        run(tmp_path, one, one)


def test_numbers_of_other_libraries_are_stored(tmp_path: Path) -> None:
    values: Any = numpy.array([1, 0, 1, 1], dtype=numpy.float32)
    ((event,), _) = run(tmp_path, Measurement(metric="right", values=values))
    assert event.value == 0.75
    rows = read_rows(tmp_path / event.records, "right")
    assert [row["right"]["value"] for row in rows] == [1.0, 0.0, 1.0, 1.0]


def test_errors_of_the_model_are_those_of_the_technique(tmp_path: Path) -> None:
    class Failing(FakeTextModel):
        def generate(self, *args: Any, **options: Any) -> Any:
            raise RecursionError("too deep")

    class Short(FakeTextModel):
        def generate(self, *args: Any, **options: Any) -> Any:
            return super().generate(*args, **options)[1:]

    with pytest.raises(PluginError, match=r':technique" .*RecursionError: too deep'):
        run(tmp_path, asks=True, model=Failing())
    message = '"tunesmith-odd:technique": its model returned 3 results for 4 prompts'
    with pytest.raises(PluginError, match=message):
        run(tmp_path, asks=True, model=Short())


def test_a_model_that_cannot_be_opened_is_a_fault_of_the_technique(tmp_path: Path) -> None:
    def fail(artifact: Path | None) -> Any:
        raise RecursionError("too deep")

    with pytest.raises(PluginError, match=r':technique" .*RecursionError: too deep'):
        run(tmp_path, opened=True, open_model=fail)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "1: the file of evaluation results is missing"),
        ("{}", "1: the file of evaluation results is damaged"),
        ('{"source": "a", "expected": "b", "m": {"value": 1, "weight": 1}}\nx', "2: .* damaged"),
        ('{"source": "a", "expected": "b", "m": {"value": "1", "weight": 1}}', "1: .* damaged"),
    ],
)
def test_a_lost_or_damaged_evaluation_is_named(tmp_path: Path, text: str, where: str) -> None:
    if text:
        (tmp_path / "tuned.m.jsonl").write_text(text)
    with pytest.raises(IntegrityError, match=rf"tuned\.m\.jsonl:{where}") as caught:
        read_rows(tmp_path / "tuned.m.jsonl", "m")
    assert "tunesmith resume" in (caught.value.hint or "")


def test_an_evaluator_that_changes_a_record_is_named(tmp_path: Path) -> None:
    records = [replace(record) for record in RECORDS]

    def change(records: Sequence[Record]) -> None:
        object.__setattr__(records[2], "completion", "easier")

    with pytest.raises(PluginError, match=r'"tunesmith-odd:odd" changed the record f:2'):
        run(tmp_path, records=records, effect=change)


def test_an_evaluator_that_changes_global_state_is_named_and_the_change_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    _, recorder = run(tmp_path, effect=lambda records: os.chdir("/"))
    assert Path.cwd() == tmp_path
    (finding,) = [event for event in recorder.events if isinstance(event, FindingReported)]
    assert (finding.level, finding.source) == ("warning", "tunesmith-odd:odd")
    assert finding.message == "evaluator odd changed the current folder; the change was undone"


def test_an_evaluator_may_return_no_metrics(
    tmp_path: Path,
) -> None:
    events, _ = run(tmp_path)
    assert events == []


def test_progress_is_reported_without_the_evaluator(tmp_path: Path) -> None:
    _, recorder = run(tmp_path, Measurement(metric="right", values=(1.0,) * 4), asks=True)
    advanced = [event for event in recorder.events if isinstance(event, PhaseAdvanced)]
    assert [event.done for event in advanced] == [4, 4]
    assert advanced[0].phase == "tuned: odd"


def test_an_evaluator_with_its_own_progress_replaces_the_default(tmp_path: Path) -> None:
    default: list[int] = []
    own: list[int] = []
    ProgressTextModel(FakeTextModel(), default.append, 1).generate(["q"], 3, progress=own.append)
    assert (default, own) == ([], [1])


def test_two_texts_of_a_record_count_as_one_record_of_progress() -> None:
    progress: list[int] = []
    ProgressTextModel(FakeTextModel(), progress.append, 2).generate(["q"] * 4, 3)
    assert progress[-1] == 2 and max(progress) == 2
