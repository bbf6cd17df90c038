"""A Slurm cluster of two nodes on this machine, in a temporary folder, as root."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

DAEMONS = ("slurmctld", "slurmd", "slurmstepd")
CLIENTS = ("sbatch", "squeue", "scancel", "scontrol", "sinfo")
NODES = ("n1", "n2")
# Without munge and systemd. A job that was requeued starts again once its credentials have expired.
CONFIGURATION = """
ClusterName=test
SlurmctldHost=localhost
SlurmctldPort={controller}
AuthType=auth/none
CredType=cred/none
AuthInfo=cred_expire=5
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
FirstJobId={first}
KillWait=30
SlurmdTimeout=10
ReturnToService=2
NodeName=n[1-2] NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports} CPUs=2 RealMemory=4000
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE State=UP
"""


def find_missing() -> str:
    """Return why no cluster can be started here; "" if one can."""
    missing = [name for name in (*DAEMONS, *CLIENTS) if find_program(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm)"
    return "" if os.getuid() == 0 else "slurmd needs root"


def find_program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def wait_until(is_true: Callable[[], object], what: str, seconds: float = 180.0) -> None:
    """Wait until something is true, or fail."""
    deadline = time.monotonic() + seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {seconds:g} seconds: {what}"
        time.sleep(0.2)


@dataclass
class Cluster:
    """The daemons, as children of this process."""

    folder: Path
    daemons: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def start(self) -> None:
        """Start the daemons, and wait until both nodes are idle."""
        controller, port, second = free_ports()
        text = CONFIGURATION.format(
            folder=self.folder,
            controller=controller,
            ports=f"{port},{second}",
            first=100_000 + os.getpid() % 100_000,  # not the number of a job of another cluster
        )
        (self.folder / "slurm.conf").write_text(text, encoding="utf-8")
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=disabled\n", encoding="utf-8")
        for name in ("state", *(f"spool-{node}" for node in NODES)):
            (self.folder / name).mkdir()
        self._start_daemon("slurmctld", "slurmctld", "-D", "-c", "-i")
        for node in NODES:
            self.start_node(node)
        wait_until(lambda: self.call("sinfo", "-h", "-o", "%T %D").strip() == "idle 2", "nodes", 60)

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start_daemon(node, "slurmd", "-D", "-N", node, "-d", str(find_program("slurmstepd")))

    def _start_daemon(self, name: str, program: str, *arguments: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            command = [str(find_program(program)), *arguments]
            self.daemons[name] = subprocess.Popen(command, stdout=log, stderr=log, env=self.env())

    def env(self) -> dict[str, str]:
        """Return the environment in which Slurm's programs find this cluster."""
        return {**os.environ, "SLURM_CONF": str(self.folder / "slurm.conf")}

    def call(self, *command: str) -> str:
        """Call a program of Slurm; return what it prints, on stdout and stderr."""
        done = subprocess.run(
            command, env=self.env(), capture_output=True, text=True, timeout=60, check=False
        )
        return done.stdout + done.stderr

    def state(self, job: str) -> str:
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%T").strip()

    def node_of(self, job: str) -> str:
        return self.call("squeue", "-h", "-t", "all", "-j", job, "-o", "%N").strip()

    def kill_node(self, node: str, job: str) -> None:
        """Kill the daemon of a node and all processes of a job, as when the machine loses power."""
        self.daemons[node].kill()
        self.daemons[node].wait()
        kill_job(job)

    def stop(self) -> None:
        """Kill all jobs, and end the daemons: nothing outlives the tests."""
        jobs = self.call("squeue", "-h", "-o", "%i").split()
        self.call("scancel", "--user=root")
        for job in jobs:
            kill_job(job)
        for name in reversed(self.daemons):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(20)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for job in jobs:  # one may have begun meanwhile
            kill_job(job)


def kill_job(job: str) -> None:
    """Kill all processes of a job."""
    for process in processes_of(job):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def free_ports() -> tuple[int, int, int]:
    """Return three ports that nobody uses now."""
    sockets = [socket.socket() for _ in range(3)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    first, second, third = (one.getsockname()[1] for one in sockets)
    for one in sockets:
        one.close()
    return first, second, third


def processes_of(job: str) -> Iterator[int]:
    """Yield the processes of a job: its step daemon, and those that know its number."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_bytes()
            variables = (folder / "environ").read_bytes().split(b"\0")
        except OSError:  # it has ended
            continue
        if f"slurmstepd: [{job}.".encode() in title or f"SLURM_JOB_ID={job}".encode() in variables:
            yield int(folder.name)
