"""The tests need no network: a connection to another machine is an error."""

from __future__ import annotations

import os
import socket

import pytest


def test_connections_to_other_machines_are_refused() -> None:
    with (
        socket.socket() as plug,
        pytest.raises(RuntimeError, match="tests must not use the network"),
    ):
        plug.connect(("192.0.2.1", 80))
    with (
        socket.socket() as plug,
        pytest.raises(RuntimeError, match="tests must not use the network"),
    ):
        plug.connect_ex(("192.0.2.1", 80))


def test_connections_to_this_machine_work() -> None:
    with socket.socket() as server, socket.socket() as client:
        server.bind(("127.0.0.1", 0))
        server.listen(1)
        client.connect(server.getsockname())


def test_child_processes_are_offline_too() -> None:
    assert os.environ["HF_HUB_OFFLINE"] == "1"
