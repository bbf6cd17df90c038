"""A Ray cluster of three nodes on this machine: a head without processors, and two machines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster


def wait_until(is_true: Callable[[], object], what: str, seconds: float = 240.0) -> None:
    """Wait until something is true, or fail."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {what}"
        time.sleep(0.1)


class ThreeNodes:
    """The nodes, as children of this process."""

    def __init__(self) -> None:
        self.cluster = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False}
        )
        self.machines: list[Any] = [self.cluster.add_node(num_cpus=1) for _ in range(2)]

    @property
    def address(self) -> str:
        return str(self.cluster.address)

    def replace_machine(self) -> None:
        """Kill a machine with all its workers, and let another one join."""
        self.cluster.remove_node(self.machines.pop(0), allow_graceful=False)
        self.machines.append(self.cluster.add_node(num_cpus=1))

    def stop(self) -> None:
        self.cluster.shutdown()


def find_ranks(folder: Path) -> dict[int, int]:
    """Return the process of each rank of a run on this machine."""
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
            variables = (process / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if b"resume" in words and os.fsencode(folder) in words:
            ranks = [v.removeprefix(b"RANK=") for v in variables if v.startswith(b"RANK=")]
            found[int(ranks[0]) if ranks else 0] = int(process.name)
    return found
