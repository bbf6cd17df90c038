"""Each screen as text at 80x24 and 160x48, compared with the files in ``snapshots``.

``UPDATE_SNAPSHOTS=1 pytest tests/test_screens.py`` writes the files again.
"""

from __future__ import annotations

import math
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import sample_runs

from tunesmith.events import FindingReported, RunFinished
from tunesmith.testing import sample_event
from tunesmith_tui.app import Dashboard
from tunesmith_tui.views.data import render_tokens

SNAPSHOTS = Path(__file__).parent / "snapshots"
SCREENS = {
    "runs": "", "tree": "t", "groups": "t g g g", "filter": "g g g slash o k enter",
    "help": "escape question_mark", "running": "escape home 2", "run": "n", "compare": "3",
    "marked": "1 space p space 3", "answers": "n 4 down", "regressed": "f", "data": "5",
    "data-end": "end", "monitor": "6", "search": "1 end 7",
}  # fmt: skip
"""The keys that lead to each screen from the one before."""


@pytest.mark.parametrize("size", [(80, 24), (160, 48)], ids=["80x24", "160x48"])
def test_they_look_as_before(
    runs: Path, press: Callable[..., list[str]], size: tuple[int, int]
) -> None:
    screens = press(runs, *SCREENS.values(), size=size)
    for name, found in zip(SCREENS, screens, strict=True):
        assert max(map(len, found.splitlines())) <= size[0]
        # Only the comparison shows a path, cut at the width of its column.
        here = re.escape(str(runs)[:11]) + r"\S*"
        text = re.sub(here, lambda match: "PATH".ljust(len(match[0]), "_"), found) + "\n"
        path = SNAPSHOTS / f"{name}-{size[0]}x{size[1]}.txt"
        if os.environ.get("UPDATE_SNAPSHOTS"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), name


NASTY = "[bold red]x[/] \x1b[31m\x07\r\u202e\u200b[@click=app.quit]q[/]"


VIEWS = [*"1234567"]


def test_text_from_outside_cannot_style_or_move_anything(
    tmp_path: Path, press: Callable[..., list[str]]
) -> None:
    plan = sample_runs.make_plan()
    plan["technique"]["use"] = plan["model"]["base"] = NASTY
    events = [
        sample_event(type(event), NASTY, **{
            name: value for name, value in vars(event).items() if not isinstance(value, str)
        }) if event.kind in ("gate-checked", "data-loaded") else event
        for event in sample_runs.list_events(NASTY, plan=plan)
    ]  # fmt: skip
    events.insert(5, sample_event(FindingReported, NASTY, level="error"))
    sample_runs.write_run(tmp_path, "trial-001", events)
    sample_runs.write_run(tmp_path, "trial-000", sample_runs.list_events(NASTY, steps=3, plan=plan))
    screens = press(tmp_path, *VIEWS, "1 g g", "t", size=(160, 48))
    for screen in screens:
        assert all(character.isprintable() or character == "\n" for character in screen)
        assert "\u202e" not in screen and "\u200b" not in screen
    for screen in (screens[1], screens[4]):
        assert "[bold red]x[/] \\x1b[31m\\x07" in screen


def test_no_run_and_a_run_without_events(tmp_path: Path, press: Callable[..., list[str]]) -> None:
    (tmp_path / "runs").mkdir()
    screens = press(tmp_path / "runs", *VIEWS)
    assert ["No run was found." in screen for screen in screens] == [n in "23567" for n in VIEWS]
    sample_runs.write_run(tmp_path / "runs", "new", [])
    assert all("new" in screen for screen in press(tmp_path / "runs", *VIEWS))


@pytest.mark.parametrize("size", [(40, 12), (9, 4)])
def test_a_narrow_terminal(
    runs: Path, press: Callable[..., list[str]], size: tuple[int, int]
) -> None:
    listed, *screens = press(runs, "t", "n", *VIEWS[1:], "question_mark", size=size)
    assert "ticket" in listed or size[0] < 40
    for screen in screens:
        assert max(map(len, screen.splitlines())) <= size[0]


def test_values_of_another_version_do_not_end_it(
    tmp_path: Path, press: Callable[..., list[str]]
) -> None:
    """A verdict is free JSON, and an interval of one group of rows is infinite."""
    wide = replace(sample_runs.measure("zero-shot", 0.4), low=-math.inf, high=math.inf)
    events = [*sample_runs.list_events(), wide]
    sample_runs.write_run(tmp_path, "a", events)
    sample_runs.write_run(
        tmp_path, "b", [*events, sample_event(RunFinished, verdict={"comparisons": 1})]
    )
    damaged, infinite = press(tmp_path, "2", "n", size=(80, 80))
    assert "value that cannot be shown" in damaged and "no interval" in infinite


def test_a_folder_that_vanishes_while_it_is_shown(
    runs: Path, press: Callable[..., list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    refresh = Dashboard.refresh_view

    def vanish(app: Dashboard) -> None:
        if app.view == "run":
            shutil.rmtree(runs, ignore_errors=True)
            app.library.check()
        refresh(app)

    monkeypatch.setattr(Dashboard, "refresh_view", vanish)
    screens = press(runs, *VIEWS, "1")
    assert "gone" in screens[1] and screens[-1].count("gone") == 6
    assert "tuned.exact-match.jsonl" in press(runs, "4")[0] or not runs.exists()


def test_damage_is_shown(runs: Path, press: Callable[..., list[str]]) -> None:
    log = next(runs.glob("*mails*")) / "events.jsonl"
    number = log.read_bytes().count(b"\n") + 1
    with log.open("a") as file:
        file.write("not JSON\n")
    listed, shown = press(runs, "1", "2")
    assert "damaged" in listed
    assert f"events.jsonl has 1 damaged line, ignored: {number}" in shown


def test_missing_answers_are_explained(runs: Path, press: Callable[..., list[str]]) -> None:
    shutil.rmtree(next(runs.glob("*tickets-2*")) / "evaluations")
    for screen in press(runs, "n 4", "3"):
        assert "tuned.exact-match.jsonl" in " ".join(screen.split())


def test_keys_work_after_the_help_and_on_every_screen(
    runs: Path, press: Callable[..., list[str]]
) -> None:
    found = press(runs, "question_mark escape", "question_mark escape 2", "n", "p", "escape")
    assert "this help" not in found[0] and "step 25 of 40" in found[1]
    assert "tickets-2" in found[2].splitlines()[1] and "mails" in found[3].splitlines()[1]
    assert "state or verdict" in found[4]


def test_tokens_are_marked_without_color() -> None:
    (row,) = sample_runs.BATCH.rows
    text = render_tokens(row)
    assert text.plain == "‹<s>›Which team?⏎\n‹it›\\x1b[31m[red]"
    trained = [text.plain[s.start : s.end] for s in text.spans if "underline" in str(s.style)]
    assert trained == ["‹it›", "\\x1b[31m[red]"]
