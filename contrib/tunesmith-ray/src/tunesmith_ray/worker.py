"""Start, watch and stop the processes of a run on one machine."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from tunesmith_ray.rank import build_command
from tunesmith_ray.work import Rendezvous, Work, WorkerPlace

POLL_SECONDS = 0.1
PATIENCE_SECONDS = 5.0
"""Seconds for processes to end without a signal after another one has failed."""


class Worker:
    """The processes of a worker. A worker is a Ray actor that runs up to two methods at a time."""

    def __init__(self, work: Work, number: int, address: str = "127.0.0.1") -> None:
        self.work, self.number, self.address = work, number, address
        self._term_at: float | None = None
        """Monotonic time at which to ask the processes to stop, or None if they may continue."""
        self._lock = threading.Lock()

    def find_place(self) -> WorkerPlace:
        """Return this machine with a free port."""
        with socket.socket() as one:
            one.bind(("", 0))
            gpus = os.environ.get("CUDA_VISIBLE_DEVICES", "")
            return WorkerPlace(socket.gethostname(), self.address, one.getsockname()[1], gpus)

    def run(self, meeting: Rendezvous) -> list[int]:
        """Start the processes, wait for them, and return their exit codes as a shell would."""
        ranks = range(self.work.processes)
        children = [self._start(index, meeting) for index in ranks]
        try:
            while not all(child.poll() is not None for child in children):
                if any(child.poll() for child in children):  # a process failed
                    self.stop(PATIENCE_SECONDS)
                self._signal(children)
                time.sleep(POLL_SECONDS)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
        return [exit_code(child.wait()) for child in children]

    def stop(self, seconds: float = 0.0) -> None:
        """Ask the processes to stop after this many seconds, and keep an earlier deadline."""
        moment = time.monotonic() + seconds
        with self._lock:
            self._term_at = moment if self._term_at is None else min(self._term_at, moment)

    def _start(self, index: int, meeting: Rendezvous) -> subprocess.Popen[bytes]:
        rank = self.number * self.work.processes + index
        folder = Path(self.work.folder)
        command = build_command(folder, rank)
        environment = {**os.environ, **self.work.environment(self.number, index, meeting)}
        with log_path(folder, rank).open("ab") as log:
            child = subprocess.Popen(
                command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                stderr=log, start_new_session=True,
            )  # fmt: skip
        self._signaled: dict[int, int] = {}
        return child

    def _signal(self, children: Sequence[subprocess.Popen[bytes]]) -> None:
        """Send due signals: SIGTERM once, then SIGKILL when the grace period is over."""
        if self._term_at is None:
            return
        late = time.monotonic() - self._term_at
        if late < 0:
            return
        number = signal.SIGKILL if late > self.work.grace_seconds else signal.SIGTERM
        for child in children:
            if child.poll() is None and self._signaled.get(child.pid) != number:
                self._signaled[child.pid] = number
                with suppress(ProcessLookupError):
                    child.send_signal(number)


def exit_code(code: int) -> int:
    """Return the exit code of a process like a shell: 128 plus the number of a signal."""
    return 128 - code if code < 0 else code


def log_path(folder: Path, rank: int) -> Path:
    """Return the file with the stderr output of a process over all of its starts."""
    return folder / "ray" / f"rank-{rank}.log"
