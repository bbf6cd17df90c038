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
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "cpu": cpu.get("model name", platform.machine()),
        "cores": os.cpu_count(),
        "flags": [flag for flag in FLAGS if flag in flags],
        "load": [round(number, 2) for number in os.getloadavg()],
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def matrix_rate(hidden: int = 512, mlp: int = 1408, tokens: int = 2048) -> dict[str, float]:
    """Operations per second of plain matrix products, in 1e9: the best of several, by format."""
    import torch

    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a, b = torch.randn(tokens, hidden, dtype=dtype), torch.randn(mlp, hidden, dtype=dtype)
        best = float("inf")
        for _ in range(40):
            started = time.perf_counter()
            a @ b.t()
            best = min(best, time.perf_counter() - started)
        found[str(dtype).removeprefix("torch.")] = 2e-9 * tokens * hidden * mlp / best
    return found


IMPORTS = {
    "torch, transformers and peft": (
        "import torch; from transformers import AutoModelForCausalLM, AutoTokenizer; "
        "from peft import LoraConfig, get_peft_model"
    ),
    "a run of tunesmith": "import tunesmith.api; import tunesmith_plugins.lora.technique",
    "TRL": "from trl import SFTTrainer, SFTConfig",
}


def import_seconds(rounds: int) -> dict[str, float]:
    """Medians of fresh processes, in turn."""
    found: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for _ in range(rounds):
        for name, code in IMPORTS.items():
            started = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            found[name].append(time.perf_counter() - started)
    return {name: median(taken) for name, taken in found.items()}
