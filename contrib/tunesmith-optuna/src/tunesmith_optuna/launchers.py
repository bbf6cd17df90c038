"""Run the trials on this machine, or as jobs on a cluster.

The launcher for a cluster calls the commands ``NAME submit``, ``NAME status`` and ``NAME cancel``
of its plugin, with ``--json``. Only the events of a run determine whether it succeeded.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import click

from tunesmith.catalog import Catalog
from tunesmith.errors import EnvironmentProblem, UsageError
from tunesmith.install import install_contrib
from tunesmith.offers import CommandOffer
from tunesmith.text import one_line
from tunesmith_cli.launch import signal_at_end_of_parent

LOG_FILE = "trial.log"
"""File in a run folder with the output of a local trial's process."""
STATUS_SECONDS = 10.0
"""Seconds between two queries of a job's state."""
MAX_FAILURES = 20
"""Number of failed queries in a row before the search gives up; a busy cluster may not answer."""


class Launcher(Protocol):
    """Executes the runs of trials, on this machine or on a cluster."""

    poll_seconds: float
    """Seconds between two reads of the runs' events."""
    leaves_runs: bool
    """True if the runs continue when the search stops."""

    def start(self, folder: Path) -> None:
        """Start or continue the run in a folder, unless it is already running."""
        ...

    def is_active(self, folder: Path) -> bool:
        """Return True while the run is waiting or running."""
        ...

    def stop(self, folder: Path) -> None:
        """Stop the run with a signal, so that the search can continue it later."""
        ...

    def describe_end(self, folder: Path) -> str:
        """Return how the run ended, as text, for runs whose events do not show it."""
        ...


@dataclass
class LocalLauncher:
    """Runs each trial in a separate process on this machine."""

    parallel: int = 1
    poll_seconds: float = 0.25
    leaves_runs: bool = False
    _processes: dict[Path, subprocess.Popen[bytes]] = field(default_factory=dict)
    _slots: dict[Path, int] = field(default_factory=dict)

    def start(self, folder: Path) -> None:
        """Start ``tunesmith resume``, which waits while an earlier process locks the run."""
        slot = next(n for n in range(self.parallel + 1) if n not in self._slots.values())
        with (folder / LOG_FILE).open("ab") as log:
            self._processes[folder] = subprocess.Popen(
                [sys.executable, "-P", "-m", "tunesmith_optuna.work", str(folder)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                env=self._environment(slot), preexec_fn=_follow_parent,
                start_new_session=True,  # Ctrl-C goes to the search, which stops its trials.
            )  # fmt: skip
        self._slots[folder] = slot

    def is_active(self, folder: Path) -> bool:
        """Return True while the run's process is alive."""
        process = self._processes.get(folder)
        if process is not None and process.poll() is None:
            return True
        self._slots.pop(folder, None)
        return False

    def stop(self, folder: Path) -> None:
        """Send SIGTERM, so that the run saves a checkpoint after its current step."""
        process = self._processes.get(folder)
        if process is not None and process.poll() is None:
            process.terminate()

    def describe_end(self, folder: Path) -> str:
        """Return the signal, the error or the exit code of the run's process."""
        process = self._processes.get(folder)
        code = process.returncode if process is not None else None
        if code == -signal.SIGKILL:
            return "its process was killed, perhaps because it ran out of memory"
        if code is not None and code < 0:
            return f"its process was stopped by {signal.Signals(-code).name}"
        with suppress(OSError):
            text = (folder / LOG_FILE).read_text(encoding="utf-8", errors="replace")
            _, found, error = f"\n{text}".rpartition("\nerror: ")
            if found:
                return one_line(error, 400)
        return f"its process exited with code {code}; see {LOG_FILE} in its folder"

    def _environment(self, slot: int) -> dict[str, str]:
        """Return the environment of a process, with a share of the cores and its own GPU."""
        found = dict(os.environ)
        if self.parallel > 1:
            cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
            found.setdefault("OMP_NUM_THREADS", str(max(1, cores // self.parallel)))
            gpus = list_gpus()
            if len(gpus) > 1:
                found["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        return found


def list_gpus() -> Sequence[str]:
    """Return the names of this machine's GPUs in CUDA."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name.strip()]
    with suppress(OSError):
        return [str(n) for n, _ in enumerate(Path("/proc/driver/nvidia/gpus").iterdir())]
    return []


def _follow_parent() -> None:
    """Stop the run cleanly if the search is killed (on Linux only).

    The signal is SIGUSR1, because a second SIGUSR1 has no effect. A second SIGTERM would make the
    run exit immediately.
    """
    signal_at_end_of_parent(signal.SIGUSR1)


@dataclass
class ClusterLauncher:
    """Submits each run as a job, through the commands of a plugin."""

    name: str
    options: Sequence[str] = ()
    """Options for ``submit``."""
    poll_seconds: float = 1.0
    status_seconds: float = STATUS_SECONDS
    leaves_runs: bool = True
    _asked: dict[Path, float] = field(default_factory=dict)
    _failures: int = 0
    _state: dict[Path, str] = field(default_factory=dict)

    @classmethod
    def find(cls, name: str, catalog: Catalog) -> ClusterLauncher:
        """Return the launcher for a cluster whose commands a plugin offers.

        Raises:
            UsageError: no plugin offers these commands.
        """
        offers = {o.offer.name: o.offer for o in catalog.offers(CommandOffer)}
        groups = [n.removesuffix(" submit") for n in offers if n.endswith(" submit")]
        launchers = [g for g in groups if {f"{g} status", f"{g} cancel"} <= offers.keys()]
        if name not in launchers:
            known = (
                ", ".join(sorted(launchers))
                or f"none installed: {install_contrib('tunesmith-slurm')}"
            )
            raise UsageError(
                f"tune.on: no installed plugin offers the launcher `{name}`",
                hint=f"launchers: {known}",
            )
        submit = offers[f"{name} submit"].load()
        flags = {flag for parameter in submit.params for flag in parameter.opts}
        return cls(name, ["--detach"] if "--detach" in flags else [])

    def start(self, folder: Path) -> None:
        """Submit the run, unless it already has a waiting or running job.

        Raises:
            EnvironmentProblem: the cluster rejected the job.
        """
        if self._ask(folder) is True:
            return
        done = self._call("submit", folder, *self.options)
        if done.returncode:
            raise EnvironmentProblem(
                f"tunesmith {self.name} submit: {_error_of(done)}",
                hint="fix the problem, and continue the search with `tunesmith tune FOLDER`",
            )
        self._asked[folder] = time.monotonic()

    def is_active(self, folder: Path) -> bool:
        """Return True while the run's job is waiting or running.

        Raises:
            EnvironmentProblem: the cluster failed to answer too many times.
        """
        now = time.monotonic()
        if now - self._asked.get(folder, -self.status_seconds) < self.status_seconds:
            return True
        self._asked[folder] = now
        active = self._ask(folder)
        self._failures = self._failures + 1 if active is None else 0
        if self._failures >= MAX_FAILURES:
            raise EnvironmentProblem(
                f"tunesmith {self.name} status: the command failed {MAX_FAILURES} times in a row",
                hint="the jobs continue to run; continue the search with `tunesmith tune FOLDER`",
            )
        return active is not False

    def stop(self, folder: Path) -> None:
        """Cancel the run's job, which stops the run after its current step."""
        self._call("cancel", folder)

    def describe_end(self, folder: Path) -> str:
        """Return the final state of the run's job."""
        state = self._state.get(folder, "") or "ended"
        return f"its job ended: {state.lower()}; see `tunesmith {self.name} logs`"

    def _ask(self, folder: Path) -> bool | None:
        """Return True if the run has a waiting or running job, or None if the query failed."""
        done = self._call("status", folder)
        if done.returncode:
            return None
        try:
            content = json.loads(done.stdout)
            self._state[folder] = str(content.get("state", ""))
            return bool(content["is_active"])
        except (ValueError, LookupError, AttributeError):
            return None

    def _call(self, command: str, folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
        words = [sys.executable, "-P", "-m", "tunesmith", self.name, command]
        return subprocess.run(
            [*words, str(folder), "--json" if command != "cancel" else "--quiet", *options],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace",
            check=False,
        )  # fmt: skip


def _error_of(done: subprocess.CompletedProcess[str]) -> str:
    """Return the error message that a command printed."""
    lines = [click.unstyle(line) for line in done.stderr.splitlines() if line.strip()]
    found = next((line for line in lines if line.startswith("error:")), lines[-1] if lines else "")
    return one_line(found.removeprefix("error:").strip() or f"exit code {done.returncode}", 400)
