"""Measure what each launcher adds to a run of a tiny model, and what a second process saves.

``python -m tests.benchmarks.launchers --rounds 3`` executes the same run with each launcher in
turn: alone, by torchrun, sharded, on Slurm and on Ray. Slurm and Ray are measured where their
plugins are installed; a cluster is started for it on this machine, of Slurm as root only. Every
process has one thread. A second table has a larger model and full training, for the time of a step
with one and with two processes.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from tests.benchmarks import machine
from tests.benchmarks.work import TOY, LlamaShape, build_model, make_rows

ROOT = Path(__file__).parents[2]
SMALL = LlamaShape("small", 256, 4, 4, 2, 704, 4_000)
TIMEOUT = 600.0
"""Seconds of one run; a launcher that takes longer has an error in its row."""
POLL_SECONDS = 0.1
UNCOUNTED = 2
"""First steps, which allocate memory and are not counted in the time of a step."""
RUN = """[model]
base = {model}
[data]
use = "jsonl"
train = "rows.jsonl"
test_size = 4
[baselines]
use = []
[technique]
use = "{technique}"
max_steps = {steps}
batch_size = 16
precision = "fp32"
[[evaluators]]
use = "loss"
"""
ALONE = "tunesmith run|1"
PYTHON = [sys.executable, "-P", "-m"]
RESULTS = "to the first step|whole command|more than alone|a step|tokens per second"


@dataclass(frozen=True)
class Case:
    """A launcher with a number of processes."""

    launcher: str
    processes: int
    command: Callable[[str], list[str]]
    """The command of a run, given the name of its folder."""
    waits: bool = True
    """True if the command ends with the run."""


@dataclass(frozen=True)
class Timing:
    """One run of a case, in seconds since its command."""

    first_step: float
    whole: float
    step: float
    """Median of the steps that are counted."""
    tokens_per_second: float


def list_cases(environment: Mapping[str, str]) -> list[Case]:
    """Return the launchers that can be measured; ``environment`` is that of their commands."""
    run = ["tunesmith", "run", "run.toml", "--out"]
    sharded = ["--set", "technique.parallel=sharded"]
    slurm = ["tunesmith", "slurm", "submit", "run.toml", "--cpus-per-task", "1", "--mem", "1500M"]
    ray = ["tunesmith", "ray", "submit", "run.toml", "--address", "local", "--cpus", "1"]

    def torchrun(processes: int) -> list[str]:
        return [*PYTHON, "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}",
                "-m", *run]  # fmt: skip

    cases = [
        Case("tunesmith run", 1, lambda out: [*PYTHON, *run, out]),
        Case("torchrun", 1, lambda out: [*torchrun(1), out]),
        Case("torchrun", 2, lambda out: [*torchrun(2), out]),
        Case("torchrun, sharded", 2, lambda out: [*torchrun(2), out, *sharded]),
    ]
    for count in (1, 2):
        if "SLURM_CONF" in environment:
            two = ["--processes", str(count)]
            cases.append(
                Case("slurm", count, lambda out, two=two: [*PYTHON, *slurm, *two, "--out", out],
                     waits=False)
            )  # fmt: skip
        if is_installed("tunesmith-ray"):
            workers = ["--workers", str(count)]
            cases.append(
                Case("ray", count, lambda out, more=workers: [*PYTHON, *ray, *more, "--out", out])
            )
    return cases


def is_installed(distribution: str) -> bool:
    try:
        version(distribution)
    except PackageNotFoundError:
        return False
    return True


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[dict[str, str]]:
    """Start the cluster of tunesmith-slurm's tests; yield the variables with which it is found.

    They are empty where there is no plugin, no Slurm, or no root.
    """
    path = ROOT / "contrib" / "tunesmith-slurm" / "tests" / "cluster.py"
    if not is_installed("tunesmith-slurm") or not path.is_file():
        yield {}
        return
    spec = spec_from_file_location("tunesmith_slurm_test_cluster", path)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    if missing := module.find_missing():
        print(f"slurm: {missing}", file=sys.stderr)
        yield {}
        return
    cluster = module.Cluster(folder)
    try:
        cluster.start()
        yield {"SLURM_CONF": cluster.env()["SLURM_CONF"]}
    finally:
        cluster.stop()


def time_case(case: Case, folder: Path, out: str, environment: Mapping[str, str]) -> Timing:
    """Execute a run with a launcher and return its times.

    Raises:
        RuntimeError: it failed or took too long; with the end of what it printed.
    """
    began, deadline = time.time(), time.monotonic() + TIMEOUT
    log = folder / f"{out}.log"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            case.command(out), cwd=folder, env=dict(environment), stdout=stream, stderr=stream
        )
    events = folder / out / "events.jsonl"
    try:
        code = process.wait(TIMEOUT)
        while not case.waits and not code and not find_end(events):
            if time.monotonic() > deadline:
                raise RuntimeError(f"no end within {TIMEOUT:g} seconds")
            time.sleep(POLL_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise RuntimeError(f"no end within {TIMEOUT:g} seconds") from None
    ended = time.time()
    if code:
        raise RuntimeError(f"exit code {code}: {log.read_text(errors='replace')[-300:]}")
    return read_timing(events, began, ended)


def find_end(events: Path) -> bool:
    """Return True once the run has written its last event."""
    return events.is_file() and b'"run-finished"' in events.read_bytes()


def read_timing(events: Path, began: float, ended: float) -> Timing:
    """Return the times of a run from its events."""
    lines = [json.loads(line) for line in events.read_text(encoding="utf-8").splitlines()]
    steps = [event for event in lines if event["event"] == "step-finished"]
    counted = steps[UNCOUNTED:] or steps
    rate = sum(event["tokens"] for event in counted) / sum(event["seconds"] for event in counted)
    step = median(event["seconds"] for event in counted)
    return Timing(steps[0]["time"] - began, ended - began, step, rate)


def measure(
    cases: list[Case], folder: Path, rounds: int, environment: Mapping[str, str]
) -> dict[str, Any]:
    """Return the times of each case by its name, round by round; an error ends that case."""
    found: dict[str, Any] = {}
    for number in range(rounds):
        for index, case in enumerate(cases):
            name = f"{case.launcher}|{case.processes}"
            if isinstance(found.get(name), str):
                continue
            out = f"run-{index}-{number}"
            try:
                timing = time_case(case, folder, out, environment)
                found.setdefault(name, []).append(vars(timing))
            except (RuntimeError, OSError, LookupError, ValueError) as error:
                found[name] = str(error)
            print(f"  {case.launcher}, {case.processes}: {found[name]}", file=sys.stderr)
            shutil.rmtree(folder / out, ignore_errors=True)
    return found


def write_work(folder: Path, shape: LlamaShape, technique: str, steps: int) -> None:
    """Write model, rows and run file of a run."""
    folder.mkdir()
    model = build_model(shape, folder / "model")
    rows = make_rows(shape, 16 * 4 + 4, max_length=256)
    lines = (json.dumps({"prompt": r.prompt, "completion": r.completion}) + "\n" for r in rows)
    (folder / "rows.jsonl").write_text("".join(lines), encoding="utf-8")
    run_file = RUN.format(model=json.dumps(str(model)), technique=technique, steps=steps)
    (folder / "run.toml").write_text(run_file, encoding="utf-8")


def render_table(found: Mapping[str, Any]) -> str:
    """Return the medians as a table; seconds, but a step in milliseconds."""
    titles = ["launcher", "processes", *RESULTS.split("|")]
    lines = [f"| {' | '.join(titles)} |", f"|{'---|' * len(titles)}"]
    alone = found.get(ALONE)
    for name, runs in found.items():
        if isinstance(runs, str):
            text = " ".join(runs.replace("|", "/").split())[-160:]
            lines.append(f"| {name.replace('|', ' | ')} | {text} | | | | |")
            continue
        middle = {key: median(run[key] for run in runs) for key in runs[0]}
        more = (
            f"{middle['whole'] - median(run['whole'] for run in alone):+.1f}"
            if isinstance(alone, list)
            else "-"
        )
        cells = (
            *name.split("|"), f"{middle['first_step']:.1f}", f"{middle['whole']:.1f}", more,
            f"{1000 * middle['step']:.1f}", f"{middle['tokens_per_second']:,.0f}",
        )  # fmt: skip
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Measure both tables, print them, and write the numbers if wanted."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", action="append", default=[], help="launchers, such as ray")
    parser.add_argument("--out", type=Path, help="JSON file for all numbers")
    options = parser.parse_args()
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "RAY_worker_niceness": "0",
    }  # fmt: skip
    results: dict[str, Any] = {"machine": machine.describe_machine()}
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        (folder / "slurm").mkdir()
        environment |= stack.enter_context(slurm_cluster(folder / "slurm"))
        cases = list_cases(environment)
        cases = [c for c in cases if not options.only or c.launcher.split(",")[0] in options.only]
        write_work(folder / "toy", TOY, "lora", options.steps)
        results["launchers"] = measure(cases, folder / "toy", options.rounds, environment)
        print(render_table(results["launchers"]), flush=True)
        if scaling := [case for case in cases if "run" in case.launcher]:
            write_work(folder / "small", SMALL, "full", options.steps)
            results["scaling"] = measure(scaling, folder / "small", options.rounds, environment)
            print(f"\n{render_table(results['scaling'])}")
    results["machine"]["load_after"] = [round(number, 2) for number in os.getloadavg()]
    if options.out:
        options.out.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
