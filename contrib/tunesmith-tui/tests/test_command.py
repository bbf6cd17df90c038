"""The command: its folders, and a terminal that it needs and drives."""

from __future__ import annotations

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from tunesmith_cli.app import app


def test_a_missing_folder_and_no_terminal_are_refused(tmp_path: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["dashboard", str(tmp_path / "missing")])
    assert result.exit_code == 2 and "no such folder" in result.output
    result = runner.invoke(app, ["dashboard", str(tmp_path)])
    assert result.exit_code == 4 and "needs a terminal" in result.output


@pytest.mark.parametrize("no_color", ["", "1"])
def test_it_draws_in_a_terminal_and_quits(runs: Path, no_color: str) -> None:
    """With NO_COLOR, no escape sequence sets a color."""
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    if no_color:
        environment["NO_COLOR"] = no_color
    main, side = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "tunesmith", "dashboard", str(runs)],
        stdin=side, stdout=side, stderr=side, env=environment, start_new_session=True,
    )  # fmt: skip
    os.close(side)
    written, keys, deadline = b"", [b"2", b"5", b"q"], time.monotonic() + 60
    try:
        while time.monotonic() < deadline and process.poll() is None:
            if select.select([main], [], [], 0.5)[0]:
                try:
                    written += os.read(main, 1 << 16)
                except OSError:  # the terminal is closed at the end
                    break
            elif keys and b"tickets" in written:
                os.write(main, keys.pop(0))
        assert process.wait(10) == 0
    finally:
        process.kill()
        os.close(main)
    styles = re.findall(rb"\x1b\[([0-9;]*)m", written)
    codes = {code for style in styles for code in style.split(b";")}
    colors = {code for code in codes if code[:1] in (b"3", b"4", b"9") and len(code) == 2}
    colors -= {b"39", b"49"}
    assert bool(colors) == (not no_color) and b"FINE-TUNE" in written
