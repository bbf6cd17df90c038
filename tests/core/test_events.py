"""Events: their JSON form."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tunesmith.api import read_report
from tunesmith.errors import IntegrityError
from tunesmith.events import (
    CheckpointSaved,
    Event,
    from_json,
)
from tunesmith.testing import sample_run


@pytest.mark.parametrize("event", [*sample_run()], ids=lambda event: event.kind)
def test_an_event_without_a_field_is_refused(event: Event) -> None:
    line = event.to_json()
    assert from_json(line) == event
    for field in dataclasses.fields(event):
        if field.default is field.default_factory is dataclasses.MISSING:
            rest = {key: value for key, value in line.items() if key != field.name}
            with pytest.raises(ValueError, match=f'the field "{field.name}".*: field required'):
                from_json(rest)
        with pytest.raises(ValueError, match=f'the field "{field.name}"[^:]*: input should be'):
            from_json({**line, field.name: object()})


def test_a_damaged_event_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    log = tmp_path / "events.jsonl"
    lines = [json.dumps(event.to_json()) for event in sample_run()]
    lines.append('{"event": "measured", "model": "tuned"}')
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        read_report(tmp_path)
    assert caught.value.message == (
        f'{log}:{len(lines)}: the field "evaluator" of an event "measured": field required; '
        "the log is damaged"
    )
    assert "remove this line" in (caught.value.hint or "")


@pytest.mark.parametrize("event", list(sample_run()), ids=lambda event: event.kind)
def test_every_event_round_trips_through_json(event: object) -> None:
    line = json.loads(json.dumps(event.to_json()))  # type: ignore[attr-defined]
    assert from_json(line) == event


def test_unknown_kinds_and_fields_are_ignored() -> None:
    assert from_json({"event": "of-a-later-version"}) is None
    line = {"event": "phase-ended", "phase": "data", "seconds": 1.0, "of_a_later_version": 1}
    event = from_json(line)
    assert event is not None
    assert event.to_json() == {"event": "phase-ended", "phase": "data", "seconds": 1.0}


def test_paths_get_the_prefix_of_a_stage() -> None:
    event = CheckpointSaved(step=1, path="checkpoints/step-1", bytes=1, seconds=0.1)
    assert event.with_path_prefix("policy") == dataclasses.replace(
        event, path="policy/checkpoints/step-1"
    )
