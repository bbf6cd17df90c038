"""Measure other tools on the same LoRA rows, with their own commands, each in its own environment.

``python -m tests.benchmarks --peers FOLDER`` installs each below FOLDER (1 to 4 GB each, once) and
runs it on ``FEW_ROWS`` and on ``MANY_ROWS`` rows of the same data. The speed is the difference in
tokens over the difference in time, so that imports, loading and saving do not count; memory is the
peak of the longer run. tunesmith is measured in the same way, in a separate process. All get the
same weights, rank, alpha and batch size, and the fastest settings that work on a CPU; the report
names everything that had to be fixed. A tool that cannot be installed or fails is reported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.benchmarks import peer_settings
from tests.benchmarks.training import ROOT
from tests.benchmarks.work import SHAPES, build_model, make_rows
from tests.benchmarks.worker import WorkerSpec

FEW_ROWS, MANY_ROWS, BATCH = 24, 80, 8
TIME_LIMIT = 900
"""Seconds after which a run is stopped."""


@dataclass(frozen=True)
class Peer:
    """A tool, its package, and its command."""

    name: str
    package: str
    extra_packages: tuple[str, ...]
    command: Callable[[peer_settings.PeerRun], list[str]]
    settings: str
    fixes: str
    environment: tuple[tuple[str, str], ...] = ()


PEERS = {
    "litgpt": Peer(
        "LitGPT",
        "litgpt==0.5.13",
        ("requests",),
        peer_settings.litgpt,
        "no checkpointing, prompt style phi-1 (two tokens more)",
        "`requests` installed, without which its command line fails",
    ),
    "llamafactory": Peer(
        "LLaMA-Factory",
        "llamafactory==0.9.5",
        (),
        peer_settings.llamafactory,
        "no checkpointing, empty template",
        "a stub instead of torchaudio, whose binary does not fit the CPU's torch",
    ),
    "torchtune": Peer(
        "torchtune",
        "torchtune==0.6.1",
        ("torchao==0.9.0",),
        peer_settings.torchtune,
        "no checkpointing, chunked loss",
        "`torchao` pinned to 0.9.0, our own tokenizer class for words",
    ),
    "axolotl": Peer(
        "Axolotl",
        "axolotl==0.19.0",
        (),
        peer_settings.axolotl,
        "always fp32 (it refuses bf16 on a CPU), no checkpointing, no packing",
        "`ACCELERATE_USE_CPU=true`, its Triton kernels off",
        (
            ("ACCELERATE_USE_CPU", "true"),
            ("AXOLOTL_DO_NOT_TRACK", "1"),  # it would send usage data
            ("DO_NOT_TRACK", "1"),
        ),
    ),
}


def measure(
    cache: Path, models: Path, names: list[str], *, shape: str = "s40", rounds: int = 2
) -> dict[str, Any]:
    """Measure all tools in turn; the shortest of ``rounds`` runs of each length counts."""
    model = build_model(SHAPES[shape], models / shape)
    tokens = _count_tokens(model, shape)
    results: dict[str, Any] = {"tokens": tokens, "rows": [FEW_ROWS, MANY_ROWS], "runs": {}}
    results["runs"]["tunesmith"] = _measure_speed(
        lambda count: _run_tunesmith(model, shape, count), tokens, rounds
    )
    for name in names:
        peer = PEERS[name]
        print(f"  {peer.name}", flush=True)
        try:
            environment_folder = install(peer, cache / name)
            run = _measure_speed(
                _peer_runner(peer, environment_folder, model, shape), tokens, rounds
            )
            run["versions"] = _package_versions(environment_folder, peer)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            run = {"error": f"{error!s:.300}"}
        results["runs"][name] = run | {"settings": peer.settings, "fixes": peer.fixes}
        print(f"    {run.get('tokens_per_second', run.get('error'))}", flush=True)
    return results


def install(peer: Peer, environment_folder: Path) -> Path:
    """Create the tool's environment, unless it is installed already."""
    python = environment_folder / "bin" / "python"
    if not (environment_folder / "installed").is_file():
        subprocess.run(
            [sys.executable, "-m", "venv", environment_folder], check=True, capture_output=True
        )
        command = [str(python), "-m", "pip", "install", "-q", peer.package, *peer.extra_packages]
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode:
            raise RuntimeError(f"cannot be installed: {process.stderr[-300:]}")
        if peer.name == "LLaMA-Factory":
            peer_settings.stub_torchaudio(environment_folder)
        (environment_folder / "installed").touch()
    return environment_folder


def _peer_runner(
    peer: Peer, environment_folder: Path, model: Path, shape: str
) -> Callable[[int], tuple[float, float]]:
    def run(count: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            table = [
                {"prompt": r.prompt, "answer": r.completion}
                for r in make_rows(SHAPES[shape], count)
            ]
            work = peer_settings.PeerRun(
                environment_folder / "bin", Path(folder), model, SHAPES[shape], BATCH, table
            )
            command = peer.command(work)
            offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": folder}
            path = f"{environment_folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
            return _run_timed(
                command, {**offline, "PATH": path, **dict(peer.environment)}, Path(folder)
            )

    return run


def _run_tunesmith(model: Path, shape: str, count: int) -> tuple[float, float]:
    spec = WorkerSpec("tunesmith", "lora", shape, str(model), count // BATCH, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.json")
        command = [sys.executable, "-m", "tests.benchmarks.worker", json.dumps(asdict(spec)), out]
        return _run_timed(command, {"HF_HUB_OFFLINE": "1"}, ROOT)


def _run_timed(
    command: list[str], environment: dict[str, str], folder: Path
) -> tuple[float, float]:
    """Run a command; return its seconds and its peak memory in MB.

    Raises:
        RuntimeError: it failed or took too long.
    """
    with tempfile.TemporaryFile("w+") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**os.environ, **environment},
            stdout=log,
            stderr=log,
        )
        usage = None
        while usage is None:
            done, status, resources = os.wait4(process.pid, os.WNOHANG)
            if done:
                usage = resources
                process.returncode = os.waitstatus_to_exitcode(status)
            elif time.perf_counter() - start > TIME_LIMIT:
                process.kill()
                process.wait()
                raise RuntimeError(f"took longer than {TIME_LIMIT} seconds")
            else:
                time.sleep(0.02)
        seconds = time.perf_counter() - start
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {log.read()[-1500:]}")
    return seconds, usage.ru_maxrss / 1024


def _measure_speed(
    run: Callable[[int], tuple[float, float]], tokens: list[int], rounds: int
) -> dict[str, Any]:
    """Return the tokens per second between the two lengths.

    Raises:
        RuntimeError: the longer run did not take longer, so something else disturbed it.
    """
    runs = [(run(FEW_ROWS), run(MANY_ROWS)) for _ in range(rounds)]
    few, many = (min(pair[n][0] for pair in runs) for n in (0, 1))
    if many <= few:
        raise RuntimeError(
            f"{MANY_ROWS} rows took {many:.1f} s, {FEW_ROWS} rows {few:.1f} s: disturbed"
        )
    speed = (tokens[1] - tokens[0]) / (many - few)
    peak = max(pair[1][1] for pair in runs)
    return {"tokens_per_second": speed, "peak_mb": peak, "seconds": [few, many]}


def _count_tokens(model: Path, shape: str) -> list[int]:
    """Return the tokens of few and of many rows; each row ends with an end token."""
    return [
        sum(len(f"{r.prompt} {r.completion}".split()) + 1 for r in make_rows(SHAPES[shape], count))
        for count in (FEW_ROWS, MANY_ROWS)
    ]


def _package_versions(environment_folder: Path, peer: Peer) -> str:
    names = [peer.package.partition("==")[0], "torch", "transformers", "trl"]
    code = (
        "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        "for n in sys.argv[1:]:\n"
        "    try: print(n, version(n))\n"
        "    except PackageNotFoundError: pass\n"
    )
    command = [str(environment_folder / "bin" / "python"), "-c", code, *names]
    process = subprocess.run(command, capture_output=True, text=True, check=False)
    return ", ".join(process.stdout.split("\n")[:-1])
