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
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from tunesmith import api
from tunesmith.storage import Checkpoints, read_events, write_atomic
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

    def start(self, run: Path, processes: int = 1) -> None:
        """Start processes on each machine, which begin the run or continue it."""
        numbers = range(len(self.names))
        self.agents = [self.start_agent(number, run, processes) for number in numbers]

    def start_agent(self, number: int, run: Path, processes: int = 1) -> subprocess.Popen[bytes]:
        """Start torchrun on one machine."""
        name = self.names[number]
        command = [
            "ip", "netns", "exec", name, sys.executable, "-P", "-m", "torch.distributed.run",
            "--nnodes", "2", "--nproc-per-node", str(processes), "--max-restarts", "3",
            "--rdzv-backend", "c10d", "--rdzv-endpoint", "10.119.0.1:29511",
            "--rdzv-conf", f"is_host={int(number == 0)}", "--rdzv-id", run.name,
            "--local-addr", f"10.119.0.{number + 1}",
            "--monitor-interval", "0.2", "--shutdown-timeout", "5",
            "--log-dir", str(self.folder / f"log-{number}"), "--redirects", "3",
            "-m", "tunesmith", "resume", str(run),
        ]  # fmt: skip
        environment = {
            **os.environ,
            "TUNESMITH_RANKS": str(self.folder / "ranks"),
            "GLOO_SOCKET_IFNAME": f"v{name}",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",  # else no other torchrun can join later
        }
        with (self.folder / f"agent-{number}.log").open("ab") as log:
            return subprocess.Popen(
                command, env=environment, stdout=log, stderr=log, start_new_session=True
            )

    def start_process(self, number: int, run: Path) -> subprocess.Popen[bytes]:
        """Start a single process on one machine, without torchrun."""
        command = ["ip", "netns", "exec", self.names[number], sys.executable, "-P", "-m"]
        self.agents = [
            subprocess.Popen(
                [*command, "tunesmith", "resume", str(run)],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
            )
        ]  # fmt: skip
        return self.agents[0]

    def stop(self) -> None:
        """Ask the run to stop after its step, as a scheduler does, and wait for its end."""
        for agent in self.agents:
            agent.terminate()
        assert all(agent.wait(200) != 0 for agent in self.agents)
        self.agents.clear()

    def set_link(self, state: str) -> None:
        """Cut the network (``down``), or connect it again (``up``)."""
        run_ip("-n", self.names[1], "link", "set", f"v{self.names[1]}", state)

    def lose(self, number: int) -> None:
        """End a machine as a power cut does: no process of it can close a connection."""
        self.set_link("down")
        worker = self.find_worker(number)
        os.killpg(self.agents[number].pid, signal.SIGKILL)
        os.kill(worker, signal.SIGKILL)
        self.agents[number].wait()

    @staticmethod
    def run_here(run: Path) -> None:
        """Run with two processes of one machine to the end."""
        command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
        command += ["-m", "tunesmith", "resume", str(run)]
        subprocess.run(command, check=True, capture_output=True)

    def wait(self) -> list[int]:
        """Wait for both torchruns, and return their exit codes, with their output if one failed."""
        codes = [agent.wait(400) for agent in self.agents]
        self.agents.clear()
        for number, code in enumerate(codes):
            if code:
                print((self.folder / f"agent-{number}.log").read_text(errors="replace"))
                print(self.read_output(number))
        return codes

    def read_output(self, number: int) -> str:
        """Return what the processes of a machine have printed."""
        files = (self.folder / f"log-{number}").rglob("*.log")
        return "".join(path.read_text(errors="replace") for path in sorted(files))

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


def make_run(folder: Path, name: str, epochs: int = 6, sets: Sequence[str] = ()) -> Path:
    """Create a run that has not begun, of eight steps per epoch."""
    if not (folder / "model").is_dir():
        save_tiny_model(folder / "model")
        write_project(folder, folder / "model", epochs=epochs, batch_size=8, every=5)
    plan, _ = api.load_plan(folder / "run.toml", sets=sets)
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


COUNTED = ("rows", "tokens", "trained_tokens", "learning_rate", "epoch")
"""Fields of a step that must be exactly those of a single process."""


@pytest.mark.faults
@pytest.mark.parametrize(("parallel", "technique"), [("data", "lora"), ("sharded", "full")])
def test_a_run_goes_from_two_machines_to_one_process_to_two_of_two(
    machines: Machines, tmp_path: Path, parallel: str, technique: str
) -> None:
    """It trains on the tokens of a single process, to its weights but for the order of sums."""
    sets = [f"technique.parallel={parallel}", f"technique.use={technique}"]
    single = make_run(tmp_path, "single", sets=sets)
    assert machines.start_process(0, single).wait(400) == 0
    run = make_run(tmp_path, "elastic", sets=sets)
    machines.start(run)
    wait_until(lambda: count_steps(run) >= 10)
    machines.stop()
    parts = sorted(path.name for path in find_newest(run).glob("training*.safetensors"))
    assert len(parts) == (2 if parallel == "sharded" else 1)
    machines.start_process(1, run)
    wait_until(lambda: count_steps(run) >= 24)
    machines.stop()
    assert count_steps(run) < 48
    machines.start(run, processes=2)
    assert machines.wait() == [0, 0]
    report, expected = api.read_report(run), api.read_report(single)
    assert report.status == "ok" and list(report.steps) == list(expected.steps)
    for number, step in report.steps.items():
        other = expected.steps[number]
        assert [getattr(step, name) for name in COUNTED] == [
            getattr(other, name) for name in COUNTED
        ]
        assert step.loss == pytest.approx(other.loss, rel=1e-5)
    (weights,) = (path.relative_to(run) for path in run.glob("[am]*/*model.safetensors"))
    ours, theirs = load_file(run / weights), load_file(single / weights)
    assert {*ours} == {*theirs}
    for name, tensor in ours.items():
        assert float((tensor - theirs[name]).abs().max()) < 1e-4, name
    starts = [event for event in read_events(run / "events.jsonl")
              if event["event"] == "training-started"]  # fmt: skip
    assert len(starts) == 3


def find_newest(run: Path) -> Path:
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    assert newest is not None
    return newest.path


@dataclass(frozen=True)
class Recovery:
    """Recovery of a run after a fault."""

    starts: int
    steps_again: int
    seconds: float
    """From the fault to the next step that had not been computed before."""


def check_results(run: Path, folder: Path) -> None:
    """Check that the run has the weights of one that was not interrupted."""
    whole = folder / "whole"
    if not whole.exists():
        Machines.run_here(make_run(folder, "whole"))
    assert api.read_report(run).status == "ok"
    assert read_weights(run) == read_weights(whole)


def read_recovery(run: Path, fault: float) -> Recovery:
    events = [json.loads(line) for line in (run / "events.jsonl").open(encoding="utf-8")]
    steps = [event for event in events if event["event"] == "step-finished"]
    before = max(event["step"] for event in steps if event["time"] <= fault)
    after = [event["time"] for event in steps if event["time"] > fault and event["step"] > before]
    starts = sum(event["event"] == "run-started" for event in events)
    numbers = [event["step"] for event in steps]
    return Recovery(starts, len(numbers) - len(set(numbers)), after[0] - fault)


@pytest.mark.faults
@pytest.mark.parametrize("event", ["data-loaded", "training-finished"])
def test_rank_zero_killed_before_or_after_training(
    faults: Any, machines: Machines, tmp_path: Path, event: str
) -> None:
    """The other rank only waits then, and still both are started again."""
    run = make_run(tmp_path, "run")
    machines.start(run)
    log = run / "events.jsonl"
    wait_until(lambda: log.is_file() and f'"{event}"' in log.read_text(encoding="utf-8"))
    os.kill(machines.find_worker(0), signal.SIGKILL)
    assert machines.wait() == [0, 0]
    events = [json.loads(line)["event"] for line in log.open(encoding="utf-8")]
    assert events.count("run-started") == 2
    assert events.count("training-finished") == 1
    check_results(run, tmp_path)
    faults.count_trials(f"rank 0 of two machines killed after {event}")


@pytest.mark.faults
def test_a_lost_machine_is_noticed_and_replaced(
    faults: Any, machines: Machines, tmp_path: Path
) -> None:
    """The power of the machine of rank 1 fails; the other one waits until it is back."""
    run = make_run(tmp_path, "lost")
    machines.start(run)
    wait_until(lambda: count_steps(run) >= 12)
    machines.lose(1)
    lost = time.time()
    wait_until(lambda: "no heartbeat from rank 1" in machines.read_output(0))
    noticed = time.time() - lost
    machines.set_link("up")
    machines.agents[1] = machines.start_agent(1, run)
    back = time.time()
    assert machines.wait() == [0, 0]
    recovery = read_recovery(run, back)
    faults.add_note(f"a lost machine: noticed after {noticed:.0f} s; once it is back, {recovery}")
    assert recovery.starts == 2
    assert recovery.steps_again <= 5
    check_results(run, tmp_path)
    faults.count_trials("a machine lost, and replaced")


@pytest.mark.faults
@pytest.mark.parametrize(("seconds", "starts"), [(5, 1), (45, 2)])
def test_a_network_that_is_cut(
    faults: Any, machines: Machines, tmp_path: Path, seconds: int, starts: int
) -> None:
    """Shortly, and nothing happens; for longer, and all begin again at the last checkpoint."""
    run = make_run(tmp_path, f"cut-{seconds}")
    machines.start(run)
    wait_until(lambda: count_steps(run) >= 12)
    machines.set_link("down")
    time.sleep(seconds)
    machines.set_link("up")
    back = time.time()
    assert machines.wait() == [0, 0]
    recovery = read_recovery(run, back)
    faults.add_note(f"a network cut for {seconds} s: once it is back, {recovery}")
    assert recovery.starts == starts
    assert recovery.steps_again <= (5 if starts > 1 else 0)
    check_results(run, tmp_path)
    faults.count_trials(f"the network between two machines cut for {seconds} seconds")


@pytest.mark.faults
def test_a_run_goes_on_without_a_torchrun(faults: Any, machines: Machines, tmp_path: Path) -> None:
    run = make_run(tmp_path, "agent")
    machines.start(run)
    wait_until(lambda: count_steps(run) >= 12)
    machines.agents[1].kill()
    machines.agents[1].wait()
    killed = time.time()
    wait_until(lambda: api.read_report(run).status == "ok")
    recovery = read_recovery(run, killed)
    assert (recovery.starts, recovery.steps_again) == (1, 0)
    check_results(run, tmp_path)
    faults.count_trials("a torchrun killed, whose process finishes the run")
