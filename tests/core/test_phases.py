"""Phases of a run, as events."""

from __future__ import annotations

from tunesmith.events import Event, PhaseAdvanced, PhaseEnded, PhaseStarted
from tunesmith.phases import run_phase


def test_a_phase_emits_its_start_progress_and_end() -> None:
    events: list[Event] = []
    with run_phase(events.append, "loading", 3, "files") as progress:
        progress(2)
    started, advanced, ended = events
    assert started == PhaseStarted(phase="loading", total=3, unit="files")
    assert advanced == PhaseAdvanced(phase="loading", done=2)
    assert isinstance(ended, PhaseEnded) and ended.phase == "loading" and ended.seconds >= 0
