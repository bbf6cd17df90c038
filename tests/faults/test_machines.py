"""Several machines: two network namespaces with a torchrun each, and what is lost between them.

``resume`` begins the run and continues it, so torchrun may start it again as often as it likes.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tunesmith import api
from tunesmith.storage import write_atomic
from tunesmith_torch.testing.tiny_model import save_tiny_model
from tunesmith_torch.testing.tiny_project import write_project

pytestmark = [pytest.mark.processes, pytest.mark.timeout(1200)]


def run_ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@dataclass
class Machines:
    """Two machines on one network, and the torchruns on them."""

    names: tuple[str, str]
    folder: Path
    agents: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def start(self, run: Path) -> None:
        """Start one process on each machine, which begins or continues the run."""
        for number, name in enumerate(self.names):
            own = f"10.119.0.{number + 1}"
            command = [
                "ip", "netns", "exec", name, sys.executable, "-P", "-m", "torch.distributed.run",
                "--nnodes", "2", "--nproc-per-node", "1", "--max-restarts", "3",
                "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.119.0.1:29511",
                "--rdzv-conf", f"is_host={int(number == 0)}", "--rdzv-id", run.name,
                "--local-addr", own, "--monitor-interval", "0.2", "--shutdown-timeout", "5",
                "--log-dir", str(self.folder / f"log-{number}"), "--redirects", "3",
                "-m", "tunesmith", "resume", str(run),
            ]  # fmt: skip
            environment = {
                **os.environ,
                "TUNESMITH_RANKS": str(self.folder / "ranks"),
                "GLOO_SOCKET_IFNAME": f"v{name}",
            }
            log = (self.folder / f"agent-{number}.log").open("wb")
            self.agents.append(
                subprocess.Popen(
                    command, env=environment, stdout=log, stderr=log, start_new_session=True
                )
            )

    def wait(self) -> list[int]:
        codes = [agent.wait(400) for agent in self.agents]
        self.agents.clear()
        return codes

    def find_worker(self, number: int) -> int:
        """Return the process of the rank on this machine."""
        agent = self.agents[number].pid
        children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
        return int(children[-1])


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    names = (f"a{os.getpid() % 10_000}", f"b{os.getpid() % 10_000}")
    made = Machines(names, tmp_path)
    (tmp_path / "ranks").mkdir(exist_ok=True)
    try:
        for name in names:
            run_ip("netns", "add", name)
        run_ip("link", "add", f"v{names[0]}", "netns", names[0], "type", "veth",
               "peer", "name", f"v{names[1]}", "netns", names[1])  # fmt: skip
        for number, name in enumerate(names):
            run_ip("-n", name, "addr", "add", f"10.119.0.{number + 1}/24", "dev", f"v{name}")
            run_ip("-n", name, "link", "set", f"v{name}", "up")
            run_ip("-n", name, "link", "set", "lo", "up")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    try:
        yield made
    finally:
        for agent in made.agents:
            with suppress(ProcessLookupError):
                os.killpg(agent.pid, signal.SIGKILL)
            agent.wait()
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False)


def make_run(folder: Path, name: str, epochs: int = 6) -> Path:
    """Create a run that has not begun, of eight steps per epoch."""
    if not (folder / "model").is_dir():
        save_tiny_model(folder / "model")
        write_project(folder, folder / "model", epochs=epochs, batch_size=8, every=5)
    plan, _ = api.load_plan(folder / "run.toml")
    run = api.create_run_folder(plan, folder / name)
    write_atomic(run.run_file, plan.to_toml())
    return run.path


def wait_until(condition: Callable[[], bool], seconds: float = 200) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def count_steps(run: Path) -> int:
    return len(api.read_report(run).steps) if (run / "events.jsonl").is_file() else 0


def read_weights(run: Path) -> bytes:
    return (run / "adapter" / "adapter_model.safetensors").read_bytes()


def test_a_killed_rank_costs_the_steps_since_the_checkpoint(
    machines: Machines, tmp_path: Path
) -> None:
    whole = make_run(tmp_path, "whole")
    machines.start(whole)
    assert machines.wait() == [0, 0]
    for lost in (0, 1):
        run = make_run(tmp_path, f"run{lost}")
        machines.start(run)
        wait_until(lambda run=run: count_steps(run) >= 12)
        os.kill(machines.find_worker(lost), signal.SIGKILL)
        assert machines.wait() == [0, 0]
        report = api.read_report(run)
        assert report.status == "ok"
        assert read_weights(run) == read_weights(whole)
        events = [json.loads(line) for line in (run / "events.jsonl").open(encoding="utf-8")]
        starts = [event["time"] for event in events if event["event"] == "run-started"]
        steps = [event["step"] for event in events if event["event"] == "step-finished"]
        again = len(steps) - len(set(steps))
        print(f"rank {lost} killed: started again, {again} steps computed twice")
        assert len(starts) == 2
        assert again < 10
