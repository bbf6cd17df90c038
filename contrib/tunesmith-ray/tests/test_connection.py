"""Connections to a cluster, as far as they need none."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import pytest

from tunesmith.errors import EnvironmentProblem
from tunesmith_ray import cluster


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_an_address_at_which_nobody_listens_is_refused_at_once() -> None:
    """Ray itself tries for five minutes."""
    began = time.monotonic()
    with (
        pytest.raises(EnvironmentProblem, match="no Ray cluster answers") as caught,
        cluster.connect(f"127.0.0.1:{free_port()}"),
    ):
        pass
    assert time.monotonic() - began < 20
    assert caught.value.hint and "ray start --head" in caught.value.hint


@pytest.mark.parametrize("address", ["auto", "local", "ray://head:10001", "head", "head:http"])
def test_what_is_no_host_and_port_is_left_to_ray(address: str) -> None:
    cluster.refuse_silent_head(address)


def test_an_impossible_port_is_refused() -> None:
    with pytest.raises(EnvironmentProblem):
        cluster.refuse_silent_head("127.0.0.1:99999999")


def test_an_address_that_answers_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        cluster.refuse_silent_head(f"127.0.0.1:{server.getsockname()[1]}")


def test_each_supervisor_has_a_name_of_its_own() -> None:
    names = {cluster.name_supervisor(Path("/runs/a")) for _ in range(3)}
    assert len(names) == 3 and all(name.startswith("a-") for name in names)
