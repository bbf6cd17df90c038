"""Stop signals: the first one is recorded, and which of them end the process at once."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tunesmith import signals
from tunesmith.errors import RunStopped
from tunesmith.signals import STOP_SIGNALS, StopSignalHandler, print_if_killed

EXIT_CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}


@pytest.fixture(autouse=True)
def default_handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    for number in (signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, signal.SIG_DFL)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS, ids=lambda number: number.name)
def test_a_stop_signal_is_recorded_and_raised_later(
    number: signal.Signals, capfd: pytest.CaptureFixture[str]
) -> None:
    with StopSignalHandler() as handler:
        handler.raise_if_received()
        os.kill(os.getpid(), number)
        assert "stopping after this step" in capfd.readouterr().err
        name = "Ctrl-C" if number == signal.SIGINT else number.name
        with pytest.raises(RunStopped, match=f"stopped by {name}") as caught:
            handler.raise_if_received()
    assert caught.value.exit_code == EXIT_CODES.get(number, 128 + number)


def test_a_closed_terminal_may_send_its_signal_twice() -> None:
    with StopSignalHandler() as handler:
        for number in (signal.SIGHUP, signal.SIGHUP, signal.SIGUSR1):
            os.kill(os.getpid(), number)
        assert handler.received == signal.SIGHUP


def test_a_second_signal_ends_the_process_and_prints_how_to_continue(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    codes: list[int] = []
    monkeypatch.setattr(signals, "end_process", codes.append)
    with print_if_killed("continue: é"), StopSignalHandler():
        os.kill(os.getpid(), signal.SIGINT)
        assert "continue" not in capfd.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)
        assert capfd.readouterr().err.startswith("continue: é\n") and codes == [130]
    with StopSignalHandler():
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert codes == [130, 143] and "continue" not in capfd.readouterr().err


def test_handlers_are_restored() -> None:
    before = [signal.getsignal(number) for number in STOP_SIGNALS]
    with StopSignalHandler():
        assert [signal.getsignal(number) for number in STOP_SIGNALS] != before
    assert [signal.getsignal(number) for number in STOP_SIGNALS] == before


def test_a_signal_that_is_ignored_or_handled_elsewhere_is_left_alone() -> None:
    """``nohup`` ignores SIGHUP, and a script may use SIGUSR1 itself."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, print)  # type: ignore[arg-type]
    with StopSignalHandler() as handler:
        os.kill(os.getpid(), signal.SIGHUP)
        assert handler.received is None
        assert signal.getsignal(signal.SIGUSR1) is print
