"""Other tools on the same LoRA rows, through their own command lines, in environments of their own.

``python -m tests.benchmarks --peers FOLDER`` installs each below FOLDER (1 to 4 GB each, once) and
runs it on ``FEW`` and on ``MANY`` rows of the same data. The speed is the difference in tokens over
the difference in time, so that imports, loading and saving do not count; memory is the peak of the
longer run. tunesmith is measured the same way, in a process of its own. All get the same weights,
rank, scale and batch, and of the settings that a CPU allows the fastest; what had to be fixed is
stated. One that cannot be installed or fails is reported as such.
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
from tests.benchmarks.work import SHAPES, build, rows
from tests.benchmarks.worker import Spec

FEW, MANY, BATCH = 24, 80, 8
LIMIT = 900
"""Seconds that a run may take."""


@dataclass(frozen=True)
class Peer:
    """A tool, where it comes from, and how it is called."""

    name: str
    package: str
    needs: tuple[str, ...]
    command: Callable[[peer_settings.Work], list[str]]
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
        "a stub in the place of torchaudio, whose binary does not fit the CPU's torch",
    ),
    "torchtune": Peer(
        "torchtune",
        "torchtune==0.6.1",
        ("torchao==0.9.0",),
        peer_settings.torchtune,
        "no checkpointing, chunked loss",
        "`torchao` pinned to 0.9.0, a tokenizer class of our own for words",
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
            ("AXOLOTL_DO_NOT_TRACK", "1"),  # it would report what it does to its makers
            ("DO_NOT_TRACK", "1"),
        ),
    ),
}


def measure(
    cache: Path, models: Path, wanted: list[str], *, shape: str = "s40", rounds: int = 2
) -> dict[str, Any]:
    """All of them, one after the other; of each length, the shortest of so many runs."""
    model = build(SHAPES[shape], models / shape)
    tokens = _tokens(model, shape)
    found: dict[str, Any] = {"tokens": tokens, "rows": [FEW, MANY], "runs": {}}
    found["runs"]["tunesmith"] = _slope(lambda count: _ours(model, shape, count), tokens, rounds)
    for name in wanted:
        peer = PEERS[name]
        print(f"  {peer.name}", flush=True)
        try:
            place = install(peer, cache / name)
            run = _slope(_runner(peer, place, model, shape), tokens, rounds)
            run["versions"] = _versions(place, peer)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            run = {"error": f"{error!s:.300}"}
        found["runs"][name] = run | {"settings": peer.settings, "fixes": peer.fixes}
        print(f"    {run.get('tokens_per_second', run.get('error'))}", flush=True)
    return found


def install(peer: Peer, place: Path) -> Path:
    """Make the environment, unless it is there."""
    python = place / "bin" / "python"
    if not (place / "installed").is_file():
        subprocess.run([sys.executable, "-m", "venv", place], check=True, capture_output=True)
        command = [str(python), "-m", "pip", "install", "-q", peer.package, *peer.needs]
        ran = subprocess.run(command, capture_output=True, text=True, check=False)
        if ran.returncode:
            raise RuntimeError(f"cannot be installed: {ran.stderr[-300:]}")
        if peer.name == "LLaMA-Factory":
            peer_settings.stub_torchaudio(place)
        (place / "installed").touch()
    return place


def _runner(
    peer: Peer, place: Path, model: Path, shape: str
) -> Callable[[int], tuple[float, float]]:
    def run(count: int) -> tuple[float, float]:
        with tempfile.TemporaryDirectory() as folder:
            table = [
                {"prompt": r.prompt, "answer": r.completion} for r in rows(SHAPES[shape], count)
            ]
            work = peer_settings.Work(
                place / "bin", Path(folder), model, SHAPES[shape], BATCH, table
            )
            command = peer.command(work)
            offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": folder}
            path = f"{place / 'bin'}{os.pathsep}{os.environ['PATH']}"
            return _timed(
                command, {**offline, "PATH": path, **dict(peer.environment)}, Path(folder)
            )

    return run


def _ours(model: Path, shape: str, count: int) -> tuple[float, float]:
    spec = Spec("tunesmith", "lora", shape, str(model), count // BATCH, BATCH)
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "out.json")
        command = [sys.executable, "-m", "tests.benchmarks.worker", json.dumps(asdict(spec)), out]
        return _timed(command, {"HF_HUB_OFFLINE": "1"}, ROOT)


def _timed(command: list[str], environment: dict[str, str], place: Path) -> tuple[float, float]:
    """Seconds and peak memory in MB of a command that ends well.

    Raises:
        RuntimeError: it does not.
    """
    with tempfile.TemporaryFile("w+") as log:
        started = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=place, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        usage = None
        while usage is None:
            done, status, resources = os.wait4(process.pid, os.WNOHANG)
            if done:
                usage = resources
                process.returncode = os.waitstatus_to_exitcode(status)
            elif time.perf_counter() - started > LIMIT:
                process.kill()
                process.wait()
                raise RuntimeError(f"took longer than {LIMIT} seconds")
            else:
                time.sleep(0.02)
        seconds = time.perf_counter() - started
        if process.returncode:
            log.seek(0)
            raise RuntimeError(f"exit code {process.returncode}: {log.read()[-1500:]}")
    return seconds, usage.ru_maxrss / 1024


def _slope(
    run: Callable[[int], tuple[float, float]], tokens: list[int], rounds: int
) -> dict[str, Any]:
    """Tokens per second between the two lengths.

    Raises:
        RuntimeError: the longer run was not longer: something else disturbed it.
    """
    runs = [(run(FEW), run(MANY)) for _ in range(rounds)]
    few, many = (min(pair[n][0] for pair in runs) for n in (0, 1))
    if many <= few:
        raise RuntimeError(f"{MANY} rows took {many:.1f} s, {FEW} rows {few:.1f} s: disturbed")
    speed = (tokens[1] - tokens[0]) / (many - few)
    peak = max(pair[1][1] for pair in runs)
    return {"tokens_per_second": speed, "peak_mb": peak, "seconds": [few, many]}


def _tokens(model: Path, shape: str) -> list[int]:
    """Tokens of the few rows and of the many; a row ends with one that says so."""
    return [
        sum(len(f"{r.prompt} {r.completion}".split()) + 1 for r in rows(SHAPES[shape], count))
        for count in (FEW, MANY)
    ]


def _versions(place: Path, peer: Peer) -> str:
    names = [peer.package.partition("==")[0], "torch", "transformers", "trl"]
    code = (
        "import sys\nfrom importlib.metadata import version, PackageNotFoundError\n"
        "for n in sys.argv[1:]:\n"
        "    try: print(n, version(n))\n"
        "    except PackageNotFoundError: pass\n"
    )
    command = [str(place / "bin" / "python"), "-c", code, *names]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    return ", ".join(ran.stdout.split("\n")[:-1])
