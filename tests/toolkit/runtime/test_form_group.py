"""A machine that is lost is noticed, although its connections stay open, and a lost torchrun."""

from __future__ import annotations

import socket
import threading
import time

import pytest
import torch
import torch.distributed as dist

from tunesmith_torch.runtime import form_group
from tunesmith_torch.runtime.rank_errors import RankLostError


class Store:
    """One store for all ranks; after ``cut`` a call does not return, as without a network."""

    def __init__(self, store: dist.HashStore) -> None:
        self.store = store
        self.cut = threading.Event()
        self.end = threading.Event()

    def clone(self) -> Store:
        return self

    def add(self, key: str, amount: int) -> int:
        if self.cut.is_set():
            self.end.wait()
        return self.store.add(key, amount)


@pytest.fixture
def several_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process rank 0 of three on three machines."""
    variables = {"RANK": "0", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "1", "LOCAL_RANK": "0"}
    for name, value in {**variables, "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(form_group, "HEARTBEAT_SECONDS", 0.02)
    monkeypatch.setattr(form_group, "HEARTBEAT_TIMEOUT_SECONDS", 0.5)


def wait_for_end(store: Store, beating: list[int], seconds: float) -> list[int]:
    """Watch with beats of these ranks; return the exit codes within that time."""
    codes: list[int] = []
    with form_group.watch_ranks(store, codes.append):
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not codes:
            for rank in beating:
                store.store.add(f"beats-{rank}", 1)
            time.sleep(0.02)
    return codes


@pytest.mark.usefixtures("several_machines")
def test_a_silent_rank_ends_this_one(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(dist.HashStore())
    assert wait_for_end(store, beating=[1, 2], seconds=1.5) == []
    assert wait_for_end(store, beating=[1], seconds=20) == [1]
    assert "rank 0: no heartbeat from rank 2 for 0.5 seconds" in capsys.readouterr().err
    assert store.store.add("beats-0", 0) > 5


@pytest.mark.usefixtures("several_machines")
def test_a_rank_without_a_network_ends_itself(capsys: pytest.CaptureFixture[str]) -> None:
    store = Store(dist.HashStore())
    store.cut.set()
    assert wait_for_end(store, beating=[1, 2], seconds=20) == [1]
    assert "no heartbeat from rank" in capsys.readouterr().err
    store.end.set()


def test_ranks_of_one_machine_are_not_watched() -> None:
    with form_group.watch_ranks(None):
        pass


@pytest.mark.timeout(60)
@pytest.mark.usefixtures("several_machines")
def test_a_torchrun_that_has_ended_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has the store, so nobody ever answers there, and the run folder must not stay locked."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    variables = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    for name, value in {**variables, "TORCHELASTIC_USE_AGENT_STORE": "True"}.items():
        monkeypatch.setenv(name, value)
    started = time.monotonic()
    with pytest.raises(RankLostError, match="torchrun has exited") as caught:
        form_group.form_group(torch.device("cpu"), lambda event: None)
    assert time.monotonic() - started < 30
    assert caught.value.hint == "`tunesmith resume` continues from the last checkpoint"
