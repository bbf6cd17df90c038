"""The fence around plugins: limits, exits, output, records, and libraries imported inside of it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tunesmith import fence
from tunesmith.errors import DataError, PluginError, RunStopped, UsageError
from tunesmith.offers import Plugin
from tunesmith.records import Text

ODD = Plugin(name="odd", distribution="tunesmith-odd", version="3.1", module="m")


def test_a_call_that_takes_too_long_is_interrupted_and_named() -> None:
    before = signal.getsignal(signal.SIGALRM)
    message = (
        r'"tunesmith-odd:odd" 3\.1 failed in its import: '
        r"PluginTimeout: did not finish within 0\.05 s"
    )
    started = time.monotonic()
    with (
        pytest.raises(PluginError, match=message + r" \(test_calls"),
        fence.fence(ODD, "its import", seconds=0.05),
    ):
        time.sleep(30)
    assert time.monotonic() - started < 10
    assert signal.getsignal(signal.SIGALRM) is before


def test_a_timer_of_the_program_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    received = []
    handler = signal.signal(signal.SIGALRM, lambda *given: received.append(1))
    timer = signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        with fence.fence(ODD, "x", seconds=60):
            pass
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= 0.1
        deadline = time.monotonic() + 10
        while not received and time.monotonic() < deadline:
            time.sleep(0.01)
        assert received
    finally:
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def test_other_threads_have_no_limit_and_no_error() -> None:
    done = []

    def call() -> None:
        with fence.fence(ODD, "x", seconds=0.01):
            time.sleep(0.05)
        done.append(True)

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize(
    ("text", "has_rows", "seconds"),
    [("", False, 60), ("", True, 600), ("5", False, 5), ("0", False, None), ("0", True, None)],
)
def test_the_limit_is_the_users(
    text: str, has_rows: bool, seconds: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(fence.SECONDS_VARIABLE, text)
    assert fence.hook_seconds(has_rows=has_rows) == seconds


@pytest.mark.parametrize("text", ["soon", "-1", "nan", "inf"])
def test_a_limit_that_is_no_number_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(fence.SECONDS_VARIABLE, text)
    with pytest.raises(UsageError, match="TUNESMITH_HOOK_SECONDS: must be a number of seconds"):
        fence.hook_seconds()


def test_what_a_plugin_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with fence.fence(ODD, "x"):
        print("from the plugin")
        with fence.fence(ODD, "y"), fence.outside_fence():
            print("from the host")
    assert capsys.readouterr() == ("from the host\n", "from the plugin\n")


def test_an_exit_is_an_error_and_a_forked_process_may_exit() -> None:
    real = os._exit
    with pytest.raises(PluginError, match=r"SystemExit: os\._exit\(0\)"), fence.fence(ODD, "x"):
        os._exit(0)
    assert os._exit is real
    with fence.fence(ODD, "x"):
        process = multiprocessing.get_context("fork").Process(target=str)
        process.start()
        process.join()
    assert process.exitcode == 0


def test_errors_of_tunesmith_pass_unless_they_report_a_success() -> None:
    with pytest.raises(DataError), fence.fence(ODD, "x"):
        raise DataError("f:1", "odd")
    with pytest.raises(PluginError, match="RunStopped: fine"), fence.fence(ODD, "x"):
        raise RunStopped("fine", exit_code=0)


def test_ctrl_c_is_the_users_where_no_handler_takes_it() -> None:
    with pytest.raises(KeyboardInterrupt), fence.fence(ODD, "x"):
        raise KeyboardInterrupt
    handler = signal.signal(signal.SIGINT, lambda *given: None)
    try:
        with pytest.raises(PluginError, match="KeyboardInterrupt"), fence.fence(ODD, "x"):
            raise KeyboardInterrupt
    finally:
        signal.signal(signal.SIGINT, handler)


def test_records_that_are_lost_or_changed_are_named() -> None:
    rows = [Text(source=f"f:{n}", text="a") for n in range(3)]
    with fence.require_unchanged(ODD, rows, ()):
        pass
    message = '"tunesmith-odd:odd" changed '
    with (
        pytest.raises(fence.DataChangedError, match=f"{message}the record f:1"),
        fence.require_unchanged(ODD, (), rows),
    ):
        object.__setattr__(rows[1], "text", "b")
    with (
        pytest.raises(fence.DataChangedError, match=f"{message}3 records to 2"),
        fence.require_unchanged(ODD, rows),
    ):
        rows.pop()


def run_python(program: str, *paths: Path, seconds: str = "60") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, *map(str, paths)],
        env={**os.environ, fence.SECONDS_VARIABLE: seconds},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@pytest.mark.processes
def test_native_code_that_never_returns_ends_with_the_process() -> None:
    """It holds the lock of the interpreter, so that no handler and no thread runs."""
    program = (
        "import itertools\n"
        "from tunesmith import fence\n"
        "from tunesmith.offers import Plugin\n"
        "fence.calls.GRACE_SECONDS = 0.5\n"
        "odd = Plugin(name='odd', distribution='odd', version='', module='m')\n"
        "def count_for_ever():\n"
        "    sum(itertools.repeat(0))\n"
        "with fence.fence(odd, 'x', seconds=0.2):\n"
        "    count_for_ever()\n"
    )
    done = run_python(program)
    assert done.returncode == 1
    assert "Timeout" in done.stderr and "in count_for_ever" in done.stderr


@pytest.mark.processes
def test_an_exit_from_another_thread_ends_with_a_failure() -> None:
    program = (
        "import os, threading\n"
        "from tunesmith import fence\n"
        "from tunesmith.offers import Plugin\n"
        "odd = Plugin(name='odd', distribution='odd', version='', module='m')\n"
        "with fence.fence(odd, 'report'):\n"
        "    thread = threading.Thread(target=os._exit, args=(0,))\n"
        "    thread.start()\n"
        "    thread.join()\n"
    )
    done = run_python(program)
    assert done.returncode == 8
    assert "error: plugin 'odd:odd' called os._exit(0) in report" in done.stderr


@pytest.mark.processes
@pytest.mark.parametrize("imported", ["before", "inside"])
def test_a_plugin_that_imports_torch_first_cannot_keep_its_defaults(imported: str) -> None:
    """The state of a library is read when its import ends, before the plugin's next line."""
    program = (
        f"if {imported == 'before'}: import torch, numpy\n"
        "from tunesmith import fence\n"
        "from tunesmith.offers import Plugin\n"
        "odd = Plugin(name='odd', distribution='odd', version='', module='m')\n"
        "with fence.fence(odd, 'x') as changes:\n"
        "    import numpy, torch\n"
        "    seed, threads = torch.initial_seed(), torch.get_num_threads()\n"
        "    first = numpy.random.get_state()[1].tolist()\n"
        "    torch.set_default_dtype(torch.float64)\n"
        "    torch.set_num_threads(threads + 3)\n"
        "    torch.manual_seed(5)\n"
        "    numpy.random.seed(5)\n"
        "print(changes)\n"
        "assert torch.get_default_dtype() is torch.float32\n"
        "assert torch.get_num_threads() == threads\n"
        "assert torch.initial_seed() == seed\n"
        "assert numpy.random.get_state()[1].tolist() == first\n"
    )
    done = run_python(program)
    assert done.returncode == 0, done.stderr
    assert "torch's default dtype" in done.stdout and "torch's number of threads" in done.stdout
