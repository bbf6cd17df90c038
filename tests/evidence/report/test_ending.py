"""The early end of a run: what happened, in which part of it, and what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tunesmith.errors import TrainingError
from tunesmith.events import (
    DataLoaded,
    Event,
    Forecast,
    ModelResolved,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.execution.report import build_report
from tunesmith.storage import EventLog, lock
from tunesmith.testing import sample_event, sample_run
from tunesmith_evidence.report.ending import KILLED_MESSAGE, RunEnding, describe_ending
from tunesmith_torch.runtime.rank_errors import RankLostError

PARTS = [
    (RunStarted, "while reading the data"),
    (DataLoaded, "during the checks before training"),
    (ModelResolved, "while measuring the baselines"),
    (TrainingStarted, "during training, in the first step"),
    (StepFinished, "during training, after step 1 of 2"),
    (TrainingFinished, "while evaluating the tuned model, after training"),
]


def describe(folder: Path, events: Sequence[Event], **ended: Any) -> RunEnding | None:
    """Return the ending of a run with these events, and one that it ended with if there is one."""
    if ended:
        fields = {"status": "failed", "verdict": {}, "seconds": 11.0, "error": "broken", **ended}
        events = [*events, sample_event(RunFinished, **fields)]
    with EventLog(folder / "events.jsonl") as log:
        for event in events:
            log.append(event.to_json())
    return describe_ending(folder, build_report(events))


@pytest.mark.parametrize(("last", "where"), PARTS)
def test_the_part_is_that_of_the_last_event(tmp_path: Path, last: type[Event], where: str) -> None:
    events = [*sample_run()]
    position = next(n for n, event in enumerate(events) if isinstance(event, last))
    found = describe(tmp_path, events[: position + 1], exit_code=3, hint="look")
    assert found == RunEnding("broken", f"{where}, 11 s after the start", "look", found.command)
    assert found.format_command("'my run'") == "tunesmith resume 'my run'"


def test_the_part_of_a_resumed_run_is_that_of_its_last_process(tmp_path: Path) -> None:
    again = sample_event(RunStarted, resumed=True)
    found = describe(tmp_path, [*[*sample_run()][:-1], again], exit_code=3)
    assert found is not None
    assert found.where == "while reading the data, 11 s after it was resumed"


@pytest.mark.parametrize(
    ("exit_code", "refused", "command"),
    [
        (5, False, "tunesmith run RUN/run.toml --set KEY=VALUE"),
        (4, True, "tunesmith run RUN/run.toml --set KEY=VALUE"),
        (4, False, "tunesmith resume RUN"),
        (8, False, "tunesmith resume RUN --debug"),
    ],
)
def test_a_run_is_not_resumed_if_the_same_would_happen_again(
    tmp_path: Path, exit_code: int, refused: bool, command: str
) -> None:
    events = [sample_event(RunStarted), sample_event(Forecast, refused=refused)]
    found = describe(tmp_path, events, exit_code=exit_code)
    assert found is not None and found.command == command


def test_a_run_that_lost_a_process_is_resumed(tmp_path: Path) -> None:
    """With the exit code of a failed training, but it need not fail again."""
    found = describe(tmp_path, [*sample_run()][:-1], exit_code=5, will_repeat=False)
    assert found is not None and found.command == "tunesmith resume RUN"
    assert RankLostError("a process has ended").exit_code == 5
    assert TrainingError.will_repeat and not RankLostError.will_repeat


def test_a_killed_run(tmp_path: Path) -> None:
    events = [sample_event(RunStarted)]
    found = describe(tmp_path, events)
    assert found is not None and (found.what, found.command) == (
        KILLED_MESSAGE,
        "tunesmith resume RUN",
    )
    assert found.where.startswith("while reading the data, last event ")
    with lock(tmp_path):
        assert describe_ending(tmp_path, build_report(events)) is None


def test_a_run_with_a_result_has_no_ending(tmp_path: Path) -> None:
    assert describe(tmp_path, [*sample_run()]) is None
    events = [*sample_run()][:-1]
    assert describe(tmp_path, events, verdict={"word": "FINE-TUNE"}) is None
