"""Under torchrun, a command that fails prints its error before a signal ends it."""

from __future__ import annotations

import os
import signal

import pytest

from tunesmith.signals import STOP_SIGNALS, StopSignalHandler
from tunesmith_plugins.commands.runs.ignore_signals import ignore_stop_signals_after_error


def test_a_failed_command_ignores_signals_until_it_has_printed_the_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    try:
        with ignore_stop_signals_after_error():
            pass
        assert {number: signal.getsignal(number) for number in STOP_SIGNALS} == before
        with pytest.raises(KeyError), ignore_stop_signals_after_error():
            raise KeyError
        assert {signal.getsignal(number) for number in STOP_SIGNALS} == {signal.SIG_IGN}
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_a_run_of_several_ranks_obeys_every_stop_signal(
    monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "test")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with ignore_stop_signals_after_error(), StopSignalHandler() as interrupts:
        os.kill(os.getpid(), number)
        assert interrupts.received == number
