"""Training against TRL: who, on what, how often, and what is made of the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from tests.benchmarks.work import SHAPES, Shape, build
from tests.benchmarks.worker import Spec

ROOT = Path(__file__).parents[2]
WHO = ("tunesmith", "trl", "trl-best")
PREFERRING = ("tunesmith", "trl", "trl-cached", "trl-fast")
FAST = ("tunesmith", "trl", "trl-fast")


@dataclass(frozen=True)
class Case:
    """One table of the report."""

    title: str
    technique: str
    shape: str
    steps: int
    rounds: int
    batch: int = 8
    who: tuple[str, ...] = WHO
    compared: str = "losses"
    """What shows that the same was learned: losses of every step, or what the report says."""
    device: str = "cpu"


CASES = {
    "sft-full": Case("Full fine-tuning, 40M Llama", "full", "s40", 4, 3),
    "sft-lora": Case("LoRA, 40M Llama", "lora", "s40", 4, 3),
    "preference": Case("DPO, LoRA, 40M Llama", "preference", "s40", 4, 3, who=PREFERRING),
    "reward": Case(
        "Reward model, LoRA, 40M Llama", "reward", "s40", 4, 3, who=FAST, compared="first"
    ),
    "grpo": Case("GRPO, LoRA, 40M Llama", "grpo", "s40", 4, 3, 4, FAST, compared="rewards"),
    "grpo-kl": Case(
        "GRPO with a KL term, LoRA, 40M Llama", "grpo-kl", "s40", 4, 3, 4, FAST, compared="rewards"
    ),
    "sft-qlora": Case("QLoRA (NF4), 40M Llama", "qlora", "s40", 4, 2),
    "smollm2-lora": Case("LoRA, SmolLM2-135M's shape", "lora", "m135", 3, 2, 4),
    "smollm2-full": Case("Full fine-tuning, SmolLM2-135M's shape", "full", "m135", 3, 2, 4),
}

GPU_CASES = {
    f"gpu-{shape}-{technique}": Case(
        f"{name}, {SHAPES[shape].name}, GPU", technique, shape, 20, 3, batch, device="cuda"
    )
    for shape, batch in (("1b", 32), ("8b", 16))
    for technique, name in (("full", "Full fine-tuning"), ("lora", "LoRA"), ("qlora", "QLoRA"))
    if (shape, technique) != ("8b", "full")  # weights, masters and means alone are 144 GB
}
"""Measured where torch finds a GPU."""


def run(case: Case, models: Path, *, rounds: int, steps: int) -> dict[str, Any]:
    """Everybody in turn, in processes of their own, as often as ``rounds``."""
    folder = build(SHAPES[case.shape], models / case.shape)
    found: dict[str, list[dict[str, Any]]] = {who: [] for who in case.who}
    for _ in range(rounds):
        for who in case.who:
            spec = Spec(
                who, case.technique, case.shape, str(folder), steps, case.batch, device=case.device
            )
            result = one(spec)
            print(f"  {case.title}: {who} {result['tokens_per_second']:.0f} tokens/s", flush=True)
            found[who].append(result)
    about = {"title": case.title, "compared": case.compared, "steps": steps, "rounds": rounds}
    return {**about, "runs": found}


def one(spec: Spec) -> dict[str, Any]:
    """Run one worker to its end."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "tests.benchmarks.worker", json.dumps(asdict(spec)), out]
        ran = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode:
            raise RuntimeError(f"{spec.who} {spec.technique}: {ran.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result


def useful_flops(shape: Shape, tokens: int, trained: int, rows: int) -> float:
    """Multiplications and additions that one step of full fine-tuning cannot do without.

    A matrix costs 2 per parameter and position forward, and twice that backward. The last layer
    needs keys and values everywhere, all else at trained positions; so does the head. Attention
    is two products of half a square for each row, here of rows that are all of mean length, so
    that what ragged rows cost more is not counted.
    """
    rest = shape.layer_parameters - shape.keys_and_values
    body = (shape.layers - 1) * shape.layer_parameters * tokens
    last = shape.keys_and_values * tokens + rest * trained
    head = shape.hidden * shape.vocabulary * trained
    attention = shape.layers * shape.hidden * tokens**2 / rows
    return 6.0 * (body + last + head + attention)


def summary(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Medians and spreads, and how many times as fast tunesmith is, round by round."""
    runs = result["runs"]
    lines = []
    for who, measured in runs.items():
        speeds = [one["tokens_per_second"] for one in measured]
        pairs = zip(runs["tunesmith"], measured, strict=True)
        lines.append(
            {
                "who": who,
                "speed": median(speeds),
                "low": min(speeds),
                "high": max(speeds),
                "cpu_speed": median(one["tokens_per_cpu_second"] for one in measured),
                "peak_mb": median(one["peak_mb"] for one in measured),
                "times": median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs),
                "memory": median(one["peak_mb"] for one in runs["tunesmith"])
                / median(one["peak_mb"] for one in measured),
            }
        )
    return lines


def loss_distance(result: dict[str, Any]) -> float:
    """Largest relative difference between tunesmith's losses and those of TRL's defaults."""
    runs = result["runs"]
    pairs = list(zip(runs["tunesmith"][0]["losses"], runs["trl"][0]["losses"], strict=True))
    distance: float = max(abs(a - b) / b for a, b in pairs)
    return distance
