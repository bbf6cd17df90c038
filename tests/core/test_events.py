"""Events: their JSON form, and logs of earlier versions."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from tunesmith.api import read_report
from tunesmith.errors import IntegrityError
from tunesmith.events import (
    EARLIER_FIELDS,
    EARLIER_KINDS,
    EVENT_TYPES,
    CheckpointSaved,
    Event,
    from_json,
    is_of_earlier_version,
)
from tunesmith.testing import sample_run

EARLIER_LOG = """
{"event": "run-started", "run": "r1", "name": "old", "started": "2026-01-01T10:00:00", \
"plan": {"technique": {"use": "rlhf", "batch": 8}}, "versions": {"tunesmith": "0.0.9"}, \
"plugins": [], "resumed": false}
{"event": "data-read", "description": "two rows", "train": 8, "test": 2, \
"skipped": {"answer is empty": 1}, "examples": [], "fingerprint": "f00d"}
{"event": "model-read", "reference": "org/model", "description": "a model", \
"files": {"config.json": "cafe"}}
{"event": "noticed", "level": "warning", "source": "data", "message": "few rows"}
{"event": "forecast", "technique": "rlhf", "method": "traced", "device": "cpu", \
"kind_of_device": "cpu", "available": 1000, \
"memory": {"low": 80, "expected": 100, "high": 120}, "phase": "train", "uncorrected": 90, \
"uncounted": 10, "runs": 3, "seconds": [1.0, 2.0], "flops": 1e9, "steps": 2, "tokens": 20, \
"refused": false, "notes": []}
{"event": "training-started", "stage": "policy", "technique": "rlhf", "steps": 2, "epochs": 1.0, \
"rows": 8, "tokens": 20, "trained_tokens": 10, "trainable_parameters": 5, "parameters": 9, \
"device": "cpu", "precision": "fp32", "details": {}, "first_step": 0}
{"event": "stepped", "stage": "policy", "step": 1, "steps": 2, "loss": 2.0, \
"learning_rate": 0.1, "gradient_norm": 1.0, "rows": 4, "tokens": 10, "trained_tokens": 5, \
"seconds": 0.5, "memory_bytes": 90, "epoch": 0.5, "extras": {"reward": 0.25, "kl": 0.01}}
{"event": "stepped", "stage": "policy", "step": 2, "steps": 2, "loss": 1.0, \
"learning_rate": 0.1, "gradient_norm": 1.0, "rows": 4, "tokens": 10, "trained_tokens": 5, \
"seconds": 0.5, "memory_bytes": 80, "epoch": 1.0, "extras": {"reward": 0.5, "kl": 0.02}}
{"event": "sampled", "stage": "policy", "step": 2, "prompt": "2 and 2?", "answer": "4", \
"reward": 0.5}
{"event": "watched", "stage": "policy", "step": 2, "figures": {"proxy": 0.5, "gold": 0.4}, \
"best": true}
{"event": "saved", "step": 2, "path": "policy/checkpoints/step-00000002", "bytes": 7, \
"seconds": 0.1}
{"event": "trained", "stage": "reward", "technique": "rlhf", "steps": 1, "tokens": 5, \
"trained_tokens": 5, "seconds": 1.0, "peak_memory_bytes": 70, "artifact": "reward/model", \
"format": "model", "answers": false}
{"event": "trained", "stage": "", "technique": "rlhf", "steps": 2, "tokens": 20, \
"trained_tokens": 10, "seconds": 1.0, "peak_memory_bytes": 85, "artifact": "policy/adapter", \
"format": "adapter", "answers": true}
{"event": "gated", "stage": "reward", "gate": "quality", "passed": false, \
"sentence": "accuracy 0.4", "accepted": true, "figures": {"accuracy": 0.4}}
{"event": "measured", "model": "tuned", "evaluator": "loss", "metric": "loss", "value": 1.5, \
"low": 1.0, "high": 2.0, "n": 2, "higher_is_better": false, "seconds": 0.1, \
"records": "evaluations/loss.jsonl", "unit": "nats/token"}
{"event": "run-finished", "status": "failed", "exit_code": 6, "finished": "2026-01-01T10:01:00", \
"seconds": 60.0, "verdict": {}, "error": "a gate", "hint": ""}
""".strip()
"""A log of a version in which events had earlier names, with every renamed kind and field."""


def earlier_lines() -> list[dict[str, object]]:
    return [json.loads(line) for line in EARLIER_LOG.splitlines()]


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
    lines = [*EARLIER_LOG.splitlines(), '{"event": "measured", "model": "tuned"}']
    log.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    with pytest.raises(IntegrityError) as caught:
        read_report(tmp_path)
    assert caught.value.message == (
        f'{log}:{len(lines)}: the field "evaluator" of an event "measured": field required; '
        "the log is damaged"
    )
    assert "remove this line" in (caught.value.hint or "")


def test_the_earlier_log_has_every_earlier_name() -> None:
    lines = earlier_lines()
    assert {line["event"] for line in lines} >= set(EARLIER_KINDS)
    for kind, fields in EARLIER_FIELDS.items():
        earlier_kinds = [old for old, new in EARLIER_KINDS.items() if new == kind] or [kind]
        keys = {key for line in lines if line["event"] in earlier_kinds for key in line}
        assert keys >= set(fields), kind


def test_earlier_names_lead_to_present_ones() -> None:
    assert set(EARLIER_KINDS.values()) <= set(EVENT_TYPES)
    assert not set(EARLIER_KINDS) & set(EVENT_TYPES)
    for kind, renamed in EARLIER_FIELDS.items():
        fields = {field.name for field in dataclasses.fields(EVENT_TYPES[kind])}
        assert set(renamed.values()) <= fields
        assert not set(renamed) & fields


def test_the_report_reads_a_log_of_an_earlier_version(tmp_path: Path) -> None:
    (tmp_path / "lock").touch()
    (tmp_path / "events.jsonl").write_text(EARLIER_LOG + "\n", encoding="utf-8")
    report = read_report(tmp_path)
    content = report.to_json()
    assert (content["run"]["status"], content["run"]["exit_code"]) == ("failed", 6)
    assert content["data"]["train"] == 8 and content["data"]["fingerprint"] == "f00d"
    assert content["data"]["skipped"] == {"answer is empty": 1}
    assert content["model"]["files"] == {"config.json": "cafe"}
    assert [finding["message"] for finding in content["findings"]] == ["few rows"]
    forecast = content["forecast"]
    assert (forecast["device_type"], forecast["uncalibrated_peak"]) == ("cpu", 90)
    assert (forecast["untracked_bytes"], forecast["calibration_runs"]) == (10, 3)
    assert forecast["actual"]["memory_ratio"] == (90 + 10) / 100
    assert content["stages"]["policy"]["losses"] == [2.0, 1.0]
    steps = [report.steps["policy", step].metrics for step in (1, 2)]
    assert steps == [{"reward": 0.25, "kl": 0.01}, {"reward": 0.5, "kl": 0.02}]
    (sample,) = report.samples.values()
    assert (sample.prompt, sample.completion, sample.reward) == ("2 and 2?", "4", 0.5)
    assert report.monitored["policy", 2].metrics == {"proxy": 0.5, "gold": 0.4}
    assert report.last_checkpoint == CheckpointSaved(
        step=2, path="policy/checkpoints/step-00000002", bytes=7, seconds=0.1
    )
    ends = {stage: end.is_text_model for stage, end in report.training_finished.items()}
    assert ends == {"reward": False, "": True}
    (gate,) = content["gates"]
    assert (gate["message"], gate["metrics"]) == ("accuracy 0.4", {"accuracy": 0.4})
    assert (gate["passed"], gate["accepted"]) == (False, True)
    assert content["evaluations"][0]["value"] == 1.5


def test_lines_of_an_earlier_version_are_recognized() -> None:
    unchanged = {"run-started", "training-started", "measured", "run-finished"}
    for line in earlier_lines():
        assert is_of_earlier_version(line) == (line["event"] not in unchanged), line["event"]
        event = from_json(line)
        assert event is not None and not is_of_earlier_version(event.to_json())


@pytest.mark.parametrize("event", list(sample_run()), ids=lambda event: event.kind)
def test_every_event_round_trips_through_json(event: object) -> None:
    line = json.loads(json.dumps(event.to_json()))  # type: ignore[attr-defined]
    assert from_json(line) == event
    assert not is_of_earlier_version(line)


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
