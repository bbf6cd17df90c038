"""What a stream can show depends on variables, its encoding and whether it is a terminal."""

from __future__ import annotations

import io
from typing import Any

import pytest

from tunesmith.terminal import supports_color, supports_live_display, supports_unicode


class Stream(io.StringIO):
    encoding: Any = "UTF-8"

    def __init__(self, *, terminal: bool) -> None:
        super().__init__()
        self.terminal = terminal

    def isatty(self) -> bool:
        return self.terminal


@pytest.mark.parametrize(
    ("variables", "terminal", "color", "live"),
    [
        ({}, True, True, True),
        ({}, False, False, False),
        ({"TERM": "dumb"}, True, False, False),
        ({"CI": "true"}, True, False, False),
        ({"CI": "false"}, True, True, True),
        ({"NO_COLOR": "1"}, True, False, False),
        ({"FORCE_COLOR": "1"}, False, True, False),
        ({"NO_COLOR": "1", "FORCE_COLOR": "1"}, True, False, False),
    ],
)
def test_color_and_live_display(
    variables: dict[str, str],
    terminal: bool,
    color: bool,
    live: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {"CI": "", "NO_COLOR": "", "FORCE_COLOR": "", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, variables.get(name, value))
    stream = Stream(terminal=terminal)
    assert (supports_color(stream), supports_live_display(stream)) == (color, live)


@pytest.mark.parametrize(
    ("encoding", "expected"), [("utf-8", True), ("UTF8", True), ("ascii", False), (None, False)]
)
def test_unicode(encoding: str | None, expected: bool) -> None:
    stream = Stream(terminal=True)
    stream.encoding = encoding
    assert supports_unicode(stream) is expected
