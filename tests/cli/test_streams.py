"""Standard streams that are full, closed or unread change nothing but what is printed."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith_cli.streams import ErrorTolerantFile, find_stream_error

MAIN = "from tunesmith_cli import main; main()"
BLOCKS = """
import os, sys
from tunesmith_cli.streams import find_stream_error, guard_streams
os.set_blocking(1, False)
guard_streams()
sys.stdout.write("x" * 300_000)
sys.stdout.flush()
assert find_stream_error(sys.stdout) is None
"""


def call(code: str, shell: str) -> subprocess.CompletedProcess[str]:
    """Run Python code with redirections of the shell."""
    command = f'"{sys.executable}" -c "$CODE" {shell}'
    environment = {**os.environ, "CODE": code}
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, env=environment
    )


@pytest.mark.parametrize(
    ("redirection", "code", "stderr"),
    [
        ("explain --schema | head -c 1", 0, ""),
        ("explain --schema | true", 0, ""),
        ("explain --schema > /dev/full", 4, "stdout could not be written"),
        ("explain --schema >&-", 4, "stdout could not be written"),
        ("explain --schema 2>&- >/dev/null <&-", 0, ""),
        ("--no-such-option 2> /dev/full", 2, ""),
    ],
)
def test_a_command_without_a_run(redirection: str, code: int, stderr: str) -> None:
    done = call(MAIN, redirection)
    assert done.returncode == code, done.stderr
    assert stderr in done.stderr if stderr else not done.stderr
    assert "bug" not in done.stderr


def test_a_reader_that_is_slow_gets_everything() -> None:
    done = call(BLOCKS, "| (sleep 0.2; wc -c)")
    assert (done.returncode, done.stdout.strip()) == (0, "300000"), done.stderr


def test_a_closed_stream_is_no_place_for_a_file() -> None:
    """The next file that is opened must not get the number of stderr."""
    code = (
        "from tunesmith_cli.streams import guard_streams; guard_streams(); import os, sys\n"
        "fd = os.open('/dev/null', os.O_WRONLY); print(fd > 2, os.get_inheritable(2))\n"
        "os.write(2, b'dropped'); print('dropped', file=sys.stderr)"
    )
    done = call(code, "<&- 2>&-")
    assert (done.returncode, done.stdout) == (0, "True True\n")


def test_a_damaged_library_that_all_commands_need_is_named(tmp_path: Path) -> None:
    (tmp_path / "click").mkdir()
    (tmp_path / "click" / "__init__.py").write_text("x = (")
    done = call(f"import sys; sys.path.insert(0, {str(tmp_path)!r}); {MAIN}", "--help")
    assert done.returncode == 4
    assert f"error: {tmp_path}/click/__init__.py: import failed: SyntaxError" in done.stderr
    assert "Traceback" not in done.stderr


def test_what_cannot_be_written_is_dropped_and_remembered() -> None:
    with open("/dev/full", "wb") as full:
        stream = io.TextIOWrapper(
            io.BufferedWriter(ErrorTolerantFile(full.fileno(), "wb", closefd=False))
        )
        assert find_stream_error(stream) is None
        for _ in range(2):
            print("x" * 100_000, file=stream, flush=True)
        failure = find_stream_error(stream)
    assert failure is not None
    assert failure.strerror == "No space left on device"
    assert find_stream_error(io.StringIO()) is None
