"""Describe the machine of a measurement: its load, its arithmetic, the versions."""

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


def describe_machine() -> dict[str, object]:
    """Return versions, processor and load, and nothing that identifies a person or a place."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        text = ""
    fields = [line.partition(":") for line in text.splitlines()]
    cpu = {key.strip(): value.strip() for key, _, value in reversed(fields)}
    flags = set(cpu.get("flags", cpu.get("Features", "")).split())
    return {
        **date_and_load(),
        "cpu": cpu.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "gpu": _gpu(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def date_and_load() -> dict[str, object]:
    """Return the day and the machine's load averages."""
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
    """Return True if torch finds an NVIDIA GPU."""
    import torch

    return torch.cuda.is_available()


def has_bf16_arithmetic() -> bool:
    """Return True if the CPU has bfloat16 arithmetic; emulated, a step takes ten times as long."""
    import torch

    from tunesmith_torch.runtime.device import pick_precision

    return pick_precision(torch.device("cpu")).dtype == torch.bfloat16


def measure_matrix_rate(hidden: int = 512, mlp: int = 1408, tokens: int = 2048) -> dict[str, Any]:
    """Return the rate of plain matrix products in 1e9 operations per second, by number format.

    ``best`` is the highest and ``usual`` the median of two hundred products, because a shared
    machine does not always reach its best rate.
    """
    import torch

    rates = {}
    for dtype in (torch.float32, *([torch.bfloat16] if has_bf16_arithmetic() else [])):
        a, b = torch.randn(tokens, hidden, dtype=dtype), torch.randn(mlp, hidden, dtype=dtype)
        seconds = []
        for _ in range(200):
            start = time.perf_counter()
            a @ b.t()
            seconds.append(time.perf_counter() - start)
        work = 2e-9 * tokens * hidden * mlp
        name = str(dtype).removeprefix("torch.")
        rates[name] = {"best": work / min(seconds), "usual": work / median(seconds)}
    return rates


IMPORTS = {
    "torch, transformers and peft": (
        "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "from peft import LoraConfig, get_peft_model"
    ),
    "a run of tunesmith": "import tunesmith.api, tunesmith_plugins.techniques.lora.technique",
    "TRL": "from trl import SFTTrainer, SFTConfig",
}


_MEMORY = """
status = open("/proc/self/status").read()  # getrusage may report the parent's peak
print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)"""


def measure_imports(rounds: int) -> dict[str, dict[str, float]]:
    """Return median seconds and peak megabytes of new processes that import and end."""
    measured: dict[str, list[tuple[float, float]]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            start = time.perf_counter()
            command = [sys.executable, "-c", f"{code}\n{_MEMORY}"]
            process = subprocess.run(command, check=True, capture_output=True, text=True)
            peak = float(process.stdout.split()[-1])
            measured[name].append((time.perf_counter() - start, peak))
    return {
        name: {"seconds": median(s for s, _ in runs), "peak_mb": median(mb for _, mb in runs)}
        for name, runs in measured.items()
    }
