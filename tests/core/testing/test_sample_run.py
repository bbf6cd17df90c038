"""The sample run has every kind of event, and puts the given text into all of them."""

from __future__ import annotations

import json

import pytest

from tunesmith.events import (
    CheckpointSaved,
    Event,
    PartEnded,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    StepFinished,
    from_json,
)
from tunesmith.testing import sample_event, sample_run
from tunesmith.testing.reporters import core_event_types


def test_a_sample_run_has_every_kind_of_event() -> None:
    events = list(sample_run(steps=3))
    assert {type(event) for event in events} == set(core_event_types())
    assert [e.step for e in events if isinstance(e, StepFinished)] == [1, 2, 3]
    assert events[-1].to_json()["status"] == "ok"


@pytest.mark.parametrize("kind", core_event_types(), ids=lambda cls: cls.kind)
def test_each_event_holds_the_text_and_is_read_back(kind: type[Event]) -> None:
    event = sample_event(kind, "a [text]")
    line = json.dumps(event.to_json())
    assert from_json(json.loads(line)) == event
    assert kind in (CheckpointSaved, PartEnded) or "a [text]" in line


def test_fields_of_the_sample_can_be_replaced() -> None:
    assert sample_event(StepFinished, step=7).step == 7
    with pytest.raises(TypeError):
        sample_event(StepFinished, stpe=7)
    phases = {e.phase for e in sample_run() if isinstance(e, PhaseStarted | PhaseAdvanced)}
    assert phases == {"data", "zero-shot: sample"} >= {sample_event(PhaseEnded).phase}


def test_a_failed_run_has_its_error_and_no_verdict() -> None:
    *_, end = sample_run("it broke", status="failed")
    assert isinstance(end, RunFinished)
    assert (end.status, end.exit_code, end.error, end.verdict) == ("failed", 5, "it broke", {})
