"""What the numbers were taken on: the machine, its load, its arithmetic, the versions."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

PACKAGES = ("tunesmith", "torch", "transformers", "peft", "trl", "accelerate", "bitsandbytes")
FLAGS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_tile", "svebf16", "bf16")


def describe() -> dict[str, object]:
    """Versions, processor and load; nothing that names a person or a place."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = [line.partition(":") for line in text.splitlines()]
    cpu = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        **now(),
        "cpu": cpu.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def now() -> dict[str, object]:
    """The day, and how busy the machine is."""
    load = [round(number, 2) for number in os.getloadavg()]
    return {"date": time.strftime("%Y-%m-%d", time.gmtime()), "load": load}


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name() if has_gpu() else None


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def has_gpu() -> bool:
    """Whether torch finds a GPU from NVIDIA."""
    import torch

    return torch.cuda.is_available()


def computes_bf16() -> bool:
    """Whether the processor has bfloat16 arithmetic; emulated, a step takes ten times as long."""
    import torch

    from tunesmith_torch.runtime.device import pick_precision

    return pick_precision(torch.device("cpu")).dtype == torch.bfloat16


def matrix_rate(hidden: int = 512, mlp: int = 1408, tokens: int = 2048) -> dict[str, Any]:
    """Operations per second of plain matrix products, in 1e9, by format: the best, and the usual.

    The usual one is the median of two hundred, since a machine that others use too is not always
    at its best.
    """
    import torch

    found = {}
    for dtype in (torch.float32, *([torch.bfloat16] if computes_bf16() else [])):
        a, b = torch.randn(tokens, hidden, dtype=dtype), torch.randn(mlp, hidden, dtype=dtype)
        taken = []
        for _ in range(200):
            started = time.perf_counter()
            a @ b.t()
            taken.append(time.perf_counter() - started)
        work = 2e-9 * tokens * hidden * mlp
        name = str(dtype).removeprefix("torch.")
        found[name] = {"best": work / min(taken), "usual": work / median(taken)}
    return found


IMPORTS = {
    "torch, transformers and peft": (
        "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "from peft import LoraConfig, get_peft_model"
    ),
    "a run of tunesmith": "import tunesmith.api, tunesmith_plugins.techniques.lora.technique",
    "TRL": "from trl import SFTTrainer, SFTConfig",
}


_MEMORY = """
status = open("/proc/self/status").read()  # what getrusage tells may be the parent's
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)"""


def imports(rounds: int) -> dict[str, dict[str, float]]:
    """Seconds and peak megabytes of fresh processes that import and end; medians, in turn."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            started = time.perf_counter()
            command = [sys.executable, "-c", f"{code}\n{_MEMORY}"]
            ran = subprocess.run(command, check=True, capture_output=True, text=True)
            peak = float(ran.stdout.split()[-1])
            found[name].append((time.perf_counter() - started, peak))
    return {
        name: {"seconds": median(s for s, _ in taken), "peak_mb": median(mb for _, mb in taken)}
        for name, taken in found.items()
    }
