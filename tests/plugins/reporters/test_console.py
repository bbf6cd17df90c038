"""The console reporter: what it shows, that it stays calm, and that nothing unhinges it."""

from __future__ import annotations

import io
import math
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.contracts import Reporter
from tunesmith.events import (
    DataRead,
    Event,
    Measured,
    Noticed,
    PhaseAdvanced,
    PhaseEnded,
    PhaseStarted,
    RunFinished,
    RunStarted,
    Saved,
    Stepped,
    Trained,
    TrainingStarted,
)
from tunesmith.storage import RunFolder
from tunesmith.terminal import plot, sparkline
from tunesmith_plugins.reporters.console import offer
from tunesmith_plugins.reporters.console.live import Moving
from tunesmith_plugins.reporters.console.plain import Plain
from tunesmith_plugins.reporters.console.wording import Training, left_text, seconds_left


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"  # type: ignore[assignment]

    def isatty(self) -> bool:
        return True


def step(number: int, *, steps: int = 100, loss: float = 1.0, seconds: float = 0.5) -> Stepped:
    return Stepped(
        step=number,
        steps=steps,
        loss=loss,
        learning_rate=1e-3,
        gradient_norm=1.0,
        rows=4,
        tokens=1000,
        trained_tokens=10,
        seconds=seconds,
        memory_bytes=2 * 1024**3,
    )


def measured(model: str = "base", metric: str = "exact-match", value: float = 0.03) -> Measured:
    return Measured(
        model=model,
        evaluator="exact-match",
        metric=metric,
        value=value,
        low=0.01,
        high=0.07,
        n=120,
        higher_is_better=True,
        seconds=12.0,
        records="x",
    )


def story(steps: int = 100) -> Iterator[Event]:
    """A whole run."""
    yield RunStarted(run="run-1", name="run", started="", plan={}, versions={}, plugins=[])
    yield PhaseStarted(phase="data", total=None)
    yield PhaseEnded(phase="data", seconds=0.1)
    yield DataRead(description="", train=240, heldout=120, left_out={"empty": 2})
    yield Noticed(level="warning", source="data", message="two rows are alike")
    yield Noticed(level="error", source="data", message="said by whoever ends the run")
    yield PhaseStarted(phase="base: exact-match", total=120)
    yield PhaseAdvanced(phase="base: exact-match", done=60)
    yield PhaseEnded(phase="base: exact-match", seconds=12.0)
    yield measured()
    yield measured(metric="loss")
    yield TrainingStarted(
        technique="lora",
        steps=steps,
        epochs=1.0,
        rows=240,
        tokens=1,
        trained_tokens=1,
        trainable_parameters=1,
        parameters=2,
        device="cpu",
        precision="fp32",
    )
    for number in range(1, steps + 1):
        yield step(number, steps=steps, loss=2.0 / number)
    yield Saved(step=steps, path="x", bytes=1, seconds=0.1)
    yield Trained(
        technique="lora",
        steps=steps,
        tokens=1,
        trained_tokens=1,
        seconds=50.0,
        peak_memory_bytes=1,
        artifact="artifact",
        format="adapter",
    )
    yield RunFinished(status="ok", exit_code=0, finished="", seconds=62.0)


def plain(events: Iterator[Event], **options: bool | int) -> list[str]:
    stream = io.StringIO()
    settings = {"every": None, "warnings_only": False, **options}
    with Plain(stream, **settings) as reporter:  # type: ignore[arg-type]
        for event in events:
            reporter.report(event)
    return stream.getvalue().splitlines()


# --- plain -----------------------------------------------------------------------------------


def test_plain_lines_tell_the_run() -> None:
    lines = plain(story())
    assert lines[0] == "starting run-1"
    assert "data: 240 to learn from, 120 held out, 2 rows left out" in lines
    assert "warning: data: two rows are alike" in lines
    assert "base: exact-match 0.030 [0.010, 0.070]" in lines
    assert not any("whoever" in line for line in lines)
    assert lines[-1] == "ok after 1 min 02 s"


@pytest.mark.parametrize(
    ("steps", "every", "count"), [(100, None, 21), (1000, None, 21), (5, None, 5), (100, 50, 3)]
)
def test_plain_training_takes_few_lines(steps: int, every: int | None, count: int) -> None:
    lines = [x for x in plain(story(steps), every=every) if x.startswith("step ")]  # type: ignore[arg-type]
    assert len(lines) == count
    assert lines[0].startswith(f"step 1/{steps}") and lines[-1].startswith(f"step {steps}/{steps}")


def test_a_step_line_has_its_figures() -> None:
    line = next(x for x in plain(story()) if x.startswith("step 50/"))
    for text in ("loss 0.0400", "lr 1.00e-03", "2,000 tokens/s", "2.0 GiB", "25 s left"):
        assert text in line


def test_off_says_warnings_alone() -> None:
    assert plain(story(), warnings_only=True) == ["warning: data: two rows are alike"]


# --- moving ----------------------------------------------------------------------------------


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    for name in ("NO_COLOR", "FORCE_COLOR", "CI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "120")
    return Terminal()


def drawn(moving: Moving) -> str:
    from rich.console import Console

    console = Console(file=io.StringIO(), width=100, markup=False, highlight=False)
    console.print(moving._drawing())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_finished_phases_are_one_line_with_their_figures(terminal: Terminal) -> None:
    with Moving(terminal) as moving:
        for event in story():
            moving.report(event)
    shown = terminal.getvalue()
    line = next(x for x in shown.splitlines() if "base: exact-match" in x and "0.030" in x)
    assert "exact-match 0.030 [0.010, 0.070], loss 0.030 [0.010, 0.070]" in line
    assert "12 s" in line and "✓" in line
    assert any("training" in x and "loss 2.000 ->" in x for x in shown.splitlines())


def test_training_moves_in_two_lines(terminal: Terminal) -> None:
    with Moving(terminal) as moving:
        for event in story():
            if isinstance(event, Trained):
                break
            moving.report(event)
        first, second = drawn(moving).rstrip("\n").splitlines()
    assert "training" in first and "step 100/100" in first
    assert "loss" in second and "█" in second and "2,000 tokens/s" in second and "GiB" in second


def test_a_phase_moves_in_one_line(terminal: Terminal) -> None:
    with Moving(terminal) as moving:
        moving.report(PhaseStarted(phase="tuned: \x1b[31mexact", total=120))
        moving.report(PhaseAdvanced(phase="x", done=400))
        shown = drawn(moving)
    assert "120/120" in shown
    assert "\x1b[31mexact" not in terminal.getvalue() + shown


def test_the_display_ends_when_the_run_fails(terminal: Terminal) -> None:
    with pytest.raises(RuntimeError), Moving(terminal) as moving:
        moving.report(PhaseStarted(phase="data"))
        raise RuntimeError
    assert not moving._live.is_started
    assert terminal.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25h" in terminal.getvalue()


@pytest.mark.parametrize(
    ("environment", "moving"),
    [
        ({}, True),
        ({"CI": "true"}, False),
        ({"NO_COLOR": "1"}, False),
        ({"TERM": "dumb"}, False),
        ({"CI": "false"}, True),
    ],
)
def test_it_moves_only_where_it_may(
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    environment: dict[str, str],
    moving: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def built(stream: io.StringIO, progress: str = "auto") -> Reporter:
        monkeypatch.setattr(offer.sys, "stderr", stream)
        options = offer.ConsoleOptions.model_validate({"progress": progress})
        return offer.build(options, RunFolder(tmp_path))

    assert isinstance(built(terminal), Moving) is moving
    assert isinstance(built(io.StringIO()), Plain)
    assert isinstance(built(terminal, "plain"), Plain)
    assert isinstance(built(terminal, "bar"), Moving)


# --- odd events ------------------------------------------------------------------------------

FLOATS = st.floats(allow_nan=True, allow_infinity=True)
INTS = st.integers(min_value=-5, max_value=10**20)
WORDS = st.text(max_size=30) | st.just("\x1b[31m[/bold]\ud800")
EVENTS = st.one_of(
    st.builds(PhaseStarted, phase=WORDS, total=st.none() | INTS, unit=WORDS),
    st.builds(PhaseAdvanced, phase=WORDS, done=INTS),
    st.builds(PhaseEnded, phase=WORDS, seconds=FLOATS),
    st.builds(Noticed, level=st.sampled_from(["info", "warning"]), source=WORDS, message=WORDS),
    st.builds(
        Stepped,
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
        extras=st.dictionaries(WORDS, FLOATS, max_size=5),
    ),
    st.builds(measured, model=WORDS, metric=WORDS, value=FLOATS),
)


@settings(max_examples=80, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_no_event_unhinges_it(events: list[Event]) -> None:
    stream, terminal = io.StringIO(), Terminal()
    moving = Moving(terminal)
    moving._live.auto_refresh = False
    with Plain(stream, every=None, warnings_only=False) as lines, moving:
        for event in events:
            lines.report(event)
            moving.report(event)
            drawn(moving)
    assert "\x1b" not in stream.getvalue()


# --- time left and curves --------------------------------------------------------------------


def test_time_left_is_steady() -> None:
    """Steps of jittery length: from one to the next, the end moves by less than a tenth."""
    training, rng = Training(), random.Random(1)
    ends, now = [], 0.0
    for number in range(1, 401):
        seconds = rng.uniform(0.5, 1.5)
        now += seconds
        training.take(step(number, steps=400, seconds=seconds))
        ends.append(now + training.seconds_left)
    jumps = [abs(b - a) / b for a, b in pairwise(ends[20:])]
    assert max(jumps) < 0.1
    assert abs(ends[100] - now) / now < 0.2


def test_time_left_where_nothing_is_known() -> None:
    assert left_text(Training().seconds_left) == ""
    assert math.isnan(seconds_left(0, 100, 50.0))
    assert math.isnan(seconds_left(5, None, 50.0))
    assert seconds_left(25, 100, 50.0) == 150.0
    assert (left_text(42.4), left_text(192.0)) == ("42 s left", "3 min 10 s left")


def test_curves() -> None:
    assert sparkline([1, 2, 3]) == "▁▅█" or sparkline([1, 2, 3]) == "▁▄█"
    assert sparkline([5.0] * 3) == "▁▁▁"
    assert sparkline([1.0, math.nan, 2.0]) == "▁?█"
    assert len(sparkline(list(range(1000)), 40)) == 40
    assert sparkline([]) == ""
    lines = plot([3.0, 2.0, 1.0], height=3)
    assert [line.rstrip() for line in lines] == ["3 |•", "  | •", "1 |  •"]
    assert plot([math.nan]) == []
