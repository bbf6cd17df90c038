"""The console reporter: its lines, its live display, and its robustness to any event."""

from __future__ import annotations

import contextlib
import io
import math
import random
import re
import time
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.contracts import Reporter
from tunesmith.events import (
    DataLoaded,
    Event,
    FindingReported,
    GateChecked,
    Measured,
    Monitored,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    StepFinished,
    TrainingFinished,
    TrainingStarted,
)
from tunesmith.storage import RunFolder
from tunesmith.storage.atomic import encode_json
from tunesmith.testing import sample_event, sample_run
from tunesmith_plugins.reporters.console import offer
from tunesmith_plugins.reporters.console.event_text import (
    format_run_left,
    format_span,
    format_time_left,
    format_training_start,
)
from tunesmith_plugins.reporters.console.live import LiveReporter
from tunesmith_plugins.reporters.console.plain import HEARTBEAT_SECONDS, PlainReporter
from tunesmith_plugins.reporters.console.progress import TrainingProgress
from tunesmith_plugins.reporters.console.sparkline import sparkline

NO_LOG = Path("/nonexistent/events.jsonl")


class Terminal(io.StringIO):
    """A stream that reports itself as a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def run_events(steps: int = 100) -> Iterator[Event]:
    """Yield the events of a complete run: every event, and a second metric of the base model."""
    for event in sample_run("exact-match", steps=steps):
        yield event
        if isinstance(event, FindingReported):
            yield sample_event(
                FindingReported, level="error", message="printed by the command line"
            )
        elif isinstance(event, Measured) and event.model == "zero-shot":
            yield replace(event, metric="loss")


def plain(events: Iterator[Event], **options: bool | int) -> list[str]:
    stream = io.StringIO()
    settings = {"every": None, "warnings_only": False, **options}
    with PlainReporter(stream, NO_LOG, **settings) as reporter:  # type: ignore[arg-type]
        for event in events:
            reporter.report(event)
    return stream.getvalue().splitlines()


# --- plain -----------------------------------------------------------------------------------


def test_the_start_of_training_names_the_modules_with_adapters() -> None:
    details = {"targets": ["k_proj", "q_proj"], "adapted_modules": 4}
    text = format_training_start(sample_event(TrainingStarted, details=details))
    assert text.endswith(" parameters in 4 modules (k_proj, q_proj)")
    details["not_adapted"] = ["experts.down_proj"]
    text = format_training_start(sample_event(TrainingStarted, details=details))
    assert text.endswith("(k_proj, q_proj); not adapted: experts.down_proj")


def test_the_start_of_training_names_the_processes() -> None:
    event = sample_event(TrainingStarted, details={"processes": 4, "parallel": "sharded"})
    text = format_training_start(event)
    assert f" on {event.device} (4 processes, weights sharded) in " in text
    event = sample_event(TrainingStarted, details={"processes": 2, "parallel": "data"})
    assert "(2 processes, a copy of the model in each)" in format_training_start(event)


@pytest.mark.parametrize(
    "details", [{}, {"targets": "all"}, {"adapted_modules": [], "targets": []}]
)
def test_the_start_of_a_technique_without_adapters_names_none(details: dict[str, object]) -> None:
    text = format_training_start(sample_event(TrainingStarted, details=details))
    assert text.endswith(" parameters")


def test_plain_lines_of_a_run() -> None:
    lines = plain(run_events())
    assert lines[0] == "starting run-1"
    assert "data: 240 training rows, 120 test rows, 2 rows skipped" in lines
    assert "warning: data: exact-match" in lines
    assert "zero-shot: exact-match 0.030 [0.010, 0.070]" in lines
    assert not any("command line" in line for line in lines)
    assert any(
        line.startswith("forecast: peak memory ")
        and line.endswith(
            ", about 30 to 55 s left: "
            "baselines 20 to 40 s, training up to 5 s, evaluation 5 to 15 s"
        )
        for line in lines
    )
    assert lines[-1] == "finished in 1 min 02 s (forecast: 30 to 55 s)"


@pytest.mark.parametrize(
    ("status", "exit_code", "trains", "text"),
    [
        ("ok", 0, True, "finished in 2.0 s"),
        ("stopped", 75, False, "finished in 2.0 s"),
        ("stopped", 75, True, "stopped after 2.0 s"),
        ("stopped", 130, False, "stopped after 2.0 s"),
        ("failed", 5, False, "failed after 2.0 s"),
    ],
)
def test_the_last_line_of_a_run(status: str, exit_code: int, trains: bool, text: str) -> None:
    """A run that only measures baselines is stopped before training, as intended."""
    events = [
        sample_event(RunStarted, trains=trains),
        sample_event(RunFinished, status=status, exit_code=exit_code, seconds=2.0),
    ]
    assert plain(iter(events))[-1] == text


@pytest.mark.parametrize(
    ("steps", "every", "count"), [(100, None, 21), (1000, None, 21), (5, None, 5), (100, 50, 3)]
)
def test_number_of_step_lines(steps: int, every: int | None, count: int) -> None:
    lines = [x for x in plain(run_events(steps), every=every) if x.startswith("step ")]  # type: ignore[arg-type]
    assert len(lines) == count
    assert lines[0].startswith(f"step 1/{steps}") and lines[-1].startswith(f"step {steps}/{steps}")


def test_step_line_shows_loss_speed_memory_and_time_left() -> None:
    line = next(x for x in plain(run_events()) if x.startswith("step 50/"))
    for text in ("loss 0.040", "lr 0.001", "2,000 tokens/s", "2.0 GiB", "25 s left"):
        assert text in line


def test_leakage_free_scores_and_errors_about_test_rows_are_shown() -> None:
    leakage_free = {"value": 0.25, "low": 0.1, "high": 0.4, "n": 9}
    events = [
        sample_event(Measured, leakage_free=leakage_free),
        sample_event(FindingReported, level="error", test_rows=[3]),
        sample_event(FindingReported, level="error", message="ends the run"),
    ]
    measured, error = plain(iter(events))
    assert measured.endswith("leakage-free 0.250") and error.startswith("error: data: sample")


def test_off_prints_only_warnings() -> None:
    assert plain(run_events(), warnings_only=True) == ["warning: data: exact-match"]


# --- heartbeat -----------------------------------------------------------------------------


class Watched(io.StringIO):
    """A stream that notes when something is written."""

    def __init__(self, now: list[float]) -> None:
        super().__init__()
        self.now, self.times = now, list[float]()

    def write(self, text: str) -> int:
        self.times.append(self.now[0])
        return super().write(text)


def play_slowly(events: list[tuple[float, Event]]) -> tuple[list[str], list[float]]:
    """Report events at their times, with heartbeats in between; return lines and their times."""
    now = [0.0]
    stream = Watched(now)
    reporter = PlainReporter(stream, NO_LOG, every=None, warnings_only=False, clock=lambda: now[0])
    next_beat = reporter.beat()
    for at, event in events:
        while next_beat < at:
            now[0] = next_beat
            next_beat += reporter.beat()
        now[0] = at
        reporter.report(event)
    return stream.getvalue().splitlines(), stream.times


@given(waits=st.lists(st.floats(0.0, 300.0), min_size=40, max_size=40))
@settings(max_examples=30, deadline=None)
def test_a_run_is_never_silent_for_more_than_10_seconds(waits: list[float]) -> None:
    """However long each phase, step or gap between them takes."""
    events, at = [], 3.0
    for event, wait in zip(run_events(20), waits, strict=False):
        events.append((at, event))
        at += wait
    lines, times = play_slowly([*events, (at, sample_event(RunFinished))])
    assert lines[-1].startswith("finished in")
    assert all(later - earlier <= HEARTBEAT_SECONDS + 1e-6 for earlier, later in pairwise(times))


def test_a_heartbeat_names_what_is_running_and_for_how_long() -> None:
    started = sample_event(RunStarted)
    phase = PhaseStarted(phase="tuned: exact-match", total=100)
    events: list[tuple[float, Event]] = [
        (0.0, started),
        (1.0, PhaseStarted(phase="base model")),
        (22.0, PhaseEnded(phase="base model", seconds=21.0)),
        (22.0, phase),
        (43.0, PhaseAdvanced(phase=phase.phase, done=12)),
        (54.0, sample_event(TrainingStarted, steps=300)),
        (65.0, sample_event(StepFinished, step=2, steps=300, seconds=1.0)),
        (76.0, PhaseStarted(phase="saving the model")),
        (87.0, sample_event(RunFinished)),
    ]
    lines, _ = play_slowly(events)
    beats = [
        line for line in lines if "still running" in line or ": step" in line or " of " in line
    ]
    assert "base model: still running, 9 s" in beats
    assert "base model: still running, 19 s" in beats
    assert "tuned: exact-match: 0 of 100, 10 s" in beats
    assert "training: step 2/300, 21 s, 4 min 58 s left" not in beats[:3]
    assert any(line.startswith("saving the model: still running") for line in beats)


def test_the_heartbeat_runs_by_itself_and_ends_with_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tunesmith_plugins.reporters.console.plain.HEARTBEAT_SECONDS", 0.01)
    stream = io.StringIO()
    with PlainReporter(stream, NO_LOG, every=None, warnings_only=False) as reporter:
        reporter.report(sample_event(RunStarted))
        reporter.report(PhaseStarted(phase="data"))
        deadline = time.monotonic() + 20
        while "data: still running" not in stream.getvalue() and time.monotonic() < deadline:
            time.sleep(0.01)
    assert "data: still running" in stream.getvalue()
    assert not reporter._thread.is_alive()


# --- live ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def render(live: LiveReporter) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=live._console.width, markup=False, highlight=False)
    console.print(live._render())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_finished_phase_is_one_line_with_its_metrics(terminal: Terminal) -> None:
    with LiveReporter(terminal, NO_LOG) as live:
        for event in run_events():
            live.report(event)
    shown = terminal.getvalue()
    line = next(x for x in shown.splitlines() if "zero-shot: exact-match" in x and "0.030" in x)
    assert "12 s 0.030 [0.010, 0.070], loss 0.030 [0.010, 0.070]" in line
    assert "12 s" in line and "✓" in line
    assert any("training" in x and "loss 2.000 ->" in x for x in shown.splitlines())


def test_training_is_shown_with_the_run_below(terminal: Terminal) -> None:
    with LiveReporter(terminal, NO_LOG) as live:
        for event in run_events():
            if isinstance(event, TrainingFinished):
                break
            live.report(event)
        live.report(sample_event(Monitored, metrics={"validation_loss": 0.5}))
        live.report(sample_event(Monitored, metrics={"validation_loss": 0.75}))
        first, second, third, run = render(live).rstrip("\n").splitlines()
    assert "training" in first and "step 100/100" in first
    assert "loss" in second and "█" in second and "2,000 tokens/s" in second and "GiB" in second
    assert "validation loss 0.750" in third and "▁█" in third and "best 0.500" in third
    assert "run: training" in run and "%" in run


def test_phase_is_shown_in_one_line(terminal: Terminal) -> None:
    with LiveReporter(terminal, NO_LOG) as live:
        live.report(PhaseStarted(phase="tuned: \x1b[31mexact", total=120))
        live.report(PhaseAdvanced(phase="x", done=400))
        shown = render(live)
    assert "120/120" in shown
    assert "\x1b[31mexact" not in terminal.getvalue() + shown


def test_nothing_is_cut_at_80_columns(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The time left is kept where there is no room for the speed."""
    monkeypatch.setenv("COLUMNS", "80")
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with LiveReporter(terminal, NO_LOG) as live:
        live.report(
            PhaseStarted(phase="retrieved-shots: exact-match", total=100_000, unit="prompts")
        )
        for done in (1, 40_000):
            now[0] += 4_000
            live.report(PhaseAdvanced(phase="x", done=done))
        shown = render(live).splitlines()
    assert "40,000/100,000  1 h 40 min left" in shown[0] and "prompts" not in shown[0]
    assert all("…" not in line[30:] and len(line) <= 80 for line in shown)


def test_a_finished_phase_fits_one_line_of_80_columns(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its answers were cut off once, not once for each metric."""
    monkeypatch.setenv("COLUMNS", "80")
    scores = {"model": "zero-shot", "value": 0.0, "low": 0.0, "high": 0.114, "cut": 30}
    with LiveReporter(terminal, NO_LOG) as live:
        for name, metrics in (("exact-match", ["exact-match"]), ("review", ["automated", "sure"])):
            live.report(PhaseStarted(phase=f"zero-shot: {name}", total=30))
            live.report(PhaseEnded(phase=f"zero-shot: {name}", seconds=2.7))
            for metric in metrics:
                live.report(sample_event(Measured, metric=metric, evaluator=name, **scores))
    lines = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue()).splitlines()
    [first] = [line.strip() for line in lines if "zero-shot: exact-match" in line and "✓" in line]
    assert first.endswith("2.7 s 0.000 [0.000, 0.114], 30 cut off")
    text = " ".join(" ".join(lines).split())
    assert text.count("30 cut off") == 2
    assert "automated 0.000 [0.000, 0.114], 30 cut off, sure 0.000 [0.000, 0.114]" in text


def test_a_long_path_of_stages_is_not_cut(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = ["supervised", "reward", "policy", "distillation"]
    plan = {"technique": {name: {"skip": False} for name in names}}
    with LiveReporter(terminal, NO_LOG) as live:
        live.report(sample_event(RunStarted, plan=plan))
        for stage in names[:3]:
            live.report(sample_event(TrainingStarted, stage=stage))
            live.report(sample_event(TrainingFinished, stage=stage))
            live.report(sample_event(GateChecked, stage=stage, passed=False, accepted=False))
        shown = render(live)
    assert all(len(line) <= 80 for line in shown.splitlines()) and "…" not in shown
    assert " ".join(shown.split()).endswith(
        "✓ supervised (gate not passed) → ✓ reward (gate not passed) → "
        "✓ policy (gate not passed) → ○ distillation"
    )


@pytest.mark.parametrize("columns", [80, 120])
def test_variants_of_a_baseline_are_told_apart(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    names = [f"random-shots k=8, draw {n}" for n in (1, 2)]
    with LiveReporter(terminal, NO_LOG) as live:
        for name in names:
            live.report(PhaseStarted(phase=f"choosing: {name}", total=10))
            assert name in render(live)
            live.report(PhaseEnded(phase=f"choosing: {name}", seconds=2.0))
    assert all(name in terminal.getvalue() for name in names)


def test_a_batch_that_takes_long_has_a_clock(
    terminal: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    with LiveReporter(terminal, NO_LOG) as live:
        live.report(PhaseStarted(phase="zero-shot: exact-match", total=10))
        now[0] = 75.0
        assert "0/10  1 min 15 s" in render(live)


def test_a_resumed_run_goes_on_where_it_was(terminal: Terminal, tmp_path: Path) -> None:
    """First loss and curve are those of the whole training, also of the plain lines."""
    log = tmp_path / "events.jsonl"
    earlier = [
        sample_event(StepFinished, step=n, steps=9, loss=loss)
        for n, loss in ((1, 8.0), (2, 4.0), (3, 4.0), (4, 99.0), (2, 6.0))
    ]
    other = sample_event(StepFinished, stage="reward", step=1, loss=77.0)
    saved = sample_event(Monitored, step=2, metrics={"validation_loss": 5.0})
    lines = [encode_json(event.to_json()) + "\n" for event in (*earlier, other, saved)]
    log.write_text("".join(lines))
    resumed = [
        sample_event(TrainingStarted, first_step=3, steps=9),
        sample_event(StepFinished, step=4, steps=9, loss=2.0),
    ]
    stream = io.StringIO()
    plain = PlainReporter(stream, log, every=None, warnings_only=False)
    with LiveReporter(terminal, log) as live, plain:
        for event in resumed:
            live.report(event)
            plain.report(event)
        assert live._training is not None
        assert live._training.losses == [8.0, 6.0, 4.0, 2.0]
        assert live._training.validation_losses == [5.0]
        for reporter in (live, plain):
            reporter.report(sample_event(TrainingFinished, steps=9))
    assert "loss 8.000 ->" in stream.getvalue() and "loss 8.000 ->" in terminal.getvalue()


def test_stages_are_a_path_with_gates(terminal: Terminal) -> None:
    plan = {"technique": {name: {"skip": name == "none"} for name in ("a", "none", "b", "c")}}
    with LiveReporter(terminal, NO_LOG) as live:
        live.report(sample_event(RunStarted, plan=plan))
        for stage, passed in (("a", True), ("b", False)):
            live.report(sample_event(TrainingStarted, stage=stage))
            live.report(sample_event(TrainingFinished, stage=stage))
            live.report(sample_event(GateChecked, stage=stage, passed=passed, accepted=False))
        live.report(sample_event(TrainingStarted, stage="c"))
        path = render(live).splitlines()[-1]
    assert path.strip() == "✓ a (gate passed) → ✓ b (gate not passed) → ● c"


def test_a_run_is_shown_between_its_phases(terminal: Terminal) -> None:
    """Checks of the data take long, and have no phase of their own."""
    with LiveReporter(terminal, NO_LOG) as live:
        assert render(live).strip() == ""
        live.report(sample_event(RunStarted))
        live.report(sample_event(DataLoaded))
        assert "run: data checks" in render(live)
        live.report(sample_event(RunFinished))
        assert render(live).strip() == ""


def test_live_display_stops_when_the_run_fails(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError), LiveReporter(terminal, NO_LOG) as live:
        live.report(PhaseStarted(phase="data"))
        raise RuntimeError
    assert not live._live.is_started
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in terminal.getvalue()


@pytest.mark.parametrize(
    ("environment", "live"),
    [
        ({}, True),
        ({"CI": "true"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"CI": "false"}, True),
    ],
)
def test_live_display_only_on_capable_terminals(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    live: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def built(stream: io.StringIO, progress: str = "auto") -> Reporter:
        options = offer.ConsoleOptions.model_validate({"progress": progress})
        with contextlib.redirect_stderr(stream):
            return offer.build(options, RunFolder(tmp_path))

    assert isinstance(built(terminal), LiveReporter) is live
    assert isinstance(built(io.StringIO()), PlainReporter)
    assert isinstance(built(terminal, "plain"), PlainReporter)
    assert isinstance(built(terminal, "bar"), LiveReporter)


# --- odd events ------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
INTS = st.integers(min_value=-5, max_value=10**20)
WORDS = st.text(max_size=30) | st.just("\x1b[31m[/bold]\ud800")
EVENTS = st.one_of(
    st.builds(PhaseStarted, phase=WORDS, total=st.none() | INTS, unit=WORDS),
    st.builds(PhaseAdvanced, phase=WORDS, done=INTS),
    st.builds(PhaseEnded, phase=WORDS, seconds=FLOATS),
    st.builds(
        FindingReported, level=st.sampled_from(["info", "warning"]), source=WORDS, message=WORDS
    ),
    st.builds(
        StepFinished,
        step=INTS,
        steps=INTS,
        loss=FLOATS,
        learning_rate=FLOATS,
        gradient_norm=FLOATS,
        rows=INTS,
        tokens=INTS,
        trained_tokens=INTS,
        seconds=FLOATS,
        memory_bytes=INTS,
        stage=WORDS,
        metrics=st.dictionaries(WORDS, FLOATS, max_size=5),
    ),
    st.builds(sample_event, st.just(Measured), model=WORDS, metric=WORDS, value=FLOATS),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_arbitrary_events_are_displayed(events: list[Event]) -> None:
    stream, terminal = io.StringIO(), Terminal()
    live = LiveReporter(terminal, NO_LOG)
    live._live.auto_refresh = False
    with PlainReporter(stream, NO_LOG, every=None, warnings_only=False) as lines, live:
        for event in events:
            lines.report(event)
            live.report(event)
            render(live)
    assert "\x1b" not in stream.getvalue()


# --- time left and curves --------------------------------------------------------------------


def test_time_left_is_steady() -> None:
    """With jittery step times, the predicted end moves by less than a tenth per step."""
    training, rng = TrainingProgress(), random.Random(1)
    ends, now = [], 0.0
    for number in range(1, 401):
        seconds = rng.uniform(0.5, 1.5)
        now += seconds
        training.add(sample_event(StepFinished, step=number, steps=400, seconds=seconds))
        ends.append(now + training.seconds_left)
    jumps = [abs(b - a) / b for a, b in pairwise(ends[20:])]
    assert max(jumps) < 0.1
    assert abs(ends[100] - now) / now < 0.2


def test_time_left_is_empty_if_unknown() -> None:
    assert format_time_left(TrainingProgress().seconds_left) == ""
    assert (format_time_left(42.4), format_time_left(192.0)) == ("42 s left", "3 min 10 s left")
    assert (format_time_left(7.6), format_time_left(0.0)) == ("8 s left", "1 s left")


def test_times_of_a_run_are_coarse_ranges_in_one_unit() -> None:
    spans = [(0.0, 3.0), (31.0, 53.0), (80.0, 130.0), (400.0, 700.0), (3_000.0, 20_000.0)]
    texts = ["up to 5 s", "30 to 55 s", "1 to 3 min", "6 to 12 min", "up to 6 h"]
    assert [format_span(*span) for span in spans] == texts
    assert format_run_left(400.0, 700.0) == "about 6 to 12 min left"
    assert format_run_left(0.0, 3.0) == "up to 5 s left"
    assert format_run_left(1.0, math.nan) == format_run_left(1.0, math.inf) == ""


def test_sparkline() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█" or sparkline([1, 2, 3]) == "▁▄█"
    assert sparkline([5.0] * 3) == "▁▁▁"
    assert sparkline([1.0, math.nan, 2.0]) == "▁?█"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([]) == ""
