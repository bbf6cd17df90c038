"""Tables fit into the terminal: names are never cut, and a narrow terminal gets lines instead."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tunesmith_cli import render

NAME = "2026-11-29_2338_support-lora_a8fe"
ROW: list[render.TableCell] = [
    NAME,
    ("ok", "good"),
    "exact-match 0.910",
    "FINE-TUNE it is worth it",
]
HEADERS = ["run", "status", "tuned", "verdict"]


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    def create() -> Console:
        return Console(file=io.StringIO(), width=request.param, no_color=True)

    monkeypatch.setattr(render, "create_console", create)


@pytest.mark.parametrize("terminal", [80, 76], indirect=True)
def test_a_name_is_whole_in_a_table_that_wraps_its_texts(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    render.print_table(HEADERS, [ROW], right=(2,))
    shown = capsys.readouterr().out
    assert shown.startswith("run ") and NAME in shown and "exact-match 0.910" in shown


@pytest.mark.parametrize("terminal", [60, 20], indirect=True)
def test_a_narrow_terminal_gets_a_line_for_each_cell(
    terminal: None, capsys: pytest.CaptureFixture[str]
) -> None:
    render.print_table(HEADERS, [ROW, [NAME.upper(), "", "", "\x1b[31m"]], right=(2,))
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [NAME, "  status: ok"]
    assert NAME.upper() in lines and "\x1b" not in "".join(lines)
    words = " ".join(line.strip() for line in lines)
    assert "tuned: exact-match 0.910 verdict: FINE-TUNE it is worth it" in words


def test_a_paragraph_keeps_names_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(render, "PIPE_WIDTH", 20)
    render.print_paragraph("the name of-an-option_that-is-long stays")
    assert "\nof-an-option_that-is-long\n" in capsys.readouterr().out
