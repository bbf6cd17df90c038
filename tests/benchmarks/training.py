"""Measure training of tunesmith and TRL: the cases, their runs, and summaries of the numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, Literal

from tests.benchmarks.work import SHAPES, LlamaShape, build_model
from tests.benchmarks.worker import WorkerSpec

ROOT = Path(__file__).parents[2]
SFT_TRAINERS = ("tunesmith", "trl", "trl-best")
PREFERENCE_TRAINERS = ("tunesmith", "trl", "trl-cached", "trl-fast")
POLICY_TRAINERS = ("tunesmith", "trl", "trl-fast")


@dataclass(frozen=True)
class Case:
    """One table of the report."""

    title: str
    technique: str
    shape: str
    steps: int
    rounds: int
    batch: int = 8
    trainers: tuple[str, ...] = SFT_TRAINERS
    compared: str = "losses"
    """The comparison that shows equal training: all losses, the first loss, or the rewards."""
    device: str = "cpu"
    precision: Literal["auto", "fp32"] = "auto"


CASES = {
    "sft-full": Case("Full fine-tuning, 40M Llama", "full", "s40", 8, 3),
    "sft-lora": Case("LoRA, 40M Llama", "lora", "s40", 8, 3),
    "preference": Case(
        "DPO, LoRA, 40M Llama", "preference", "s40", 4, 3, trainers=PREFERENCE_TRAINERS
    ),
    "reward": Case(
        "Reward model, LoRA, 40M Llama",
        "reward",
        "s40",
        4,
        3,
        trainers=POLICY_TRAINERS,
        compared="first",
    ),
    "grpo": Case(
        "GRPO, LoRA, 40M Llama", "grpo", "s40", 4, 3, 4, POLICY_TRAINERS, compared="rewards"
    ),
    "grpo-kl": Case(
        "GRPO with a KL term, LoRA, 40M Llama",
        "grpo-kl",
        "s40",
        4,
        3,
        4,
        POLICY_TRAINERS,
        compared="rewards",
    ),
    "sft-qlora": Case("QLoRA (NF4), 40M Llama", "qlora", "s40", 8, 2),
    "smollm2-lora": Case("LoRA, SmolLM2-135M's shape", "lora", "m135", 6, 2, 4),
    "smollm2-full": Case("Full fine-tuning, SmolLM2-135M's shape", "full", "m135", 6, 2, 4),
    "smollm2-360m-lora": Case("LoRA, SmolLM2-360M's shape", "lora", "m360", 4, 1, 4),
    "1b-lora": Case("LoRA, Llama-3.2-1B's shape", "lora", "1b", 3, 1, 4),
}

FLOAT32_CASES = {
    f"{name}-fp32": replace(CASES[name], title=f"{CASES[name].title}, float32", precision="fp32")
    for name in ("sft-full", "sft-lora", "smollm2-full", "smollm2-lora")
}
"""Cases that are measured if the CPU has bf16 arithmetic; otherwise all cases are in float32."""

GPU_CASES = {
    f"gpu-{shape}-{technique}": Case(
        f"{name}, {SHAPES[shape].name}, GPU", technique, shape, 20, 3, batch, device="cuda"
    )
    for shape, batch in (("1b", 32), ("8b", 16))
    for technique, name in (("full", "Full fine-tuning"), ("lora", "LoRA"), ("qlora", "QLoRA"))
    if (shape, technique) != ("8b", "full")  # weights, masters and moments alone are 144 GB
}
"""Cases that are measured if torch finds a GPU."""

ALL_CASES = CASES | FLOAT32_CASES | GPU_CASES


def run_case(case: Case, models: Path, *, rounds: int, steps: int) -> dict[str, Any]:
    """Run all trainers of a case in turn, each in a separate process, ``rounds`` times."""
    folder = build_model(SHAPES[case.shape], models / case.shape)
    runs: dict[str, list[dict[str, Any]]] = {trainer: [] for trainer in case.trainers}
    for _ in range(rounds):
        for trainer in case.trainers:
            spec = WorkerSpec(
                trainer,
                case.technique,
                case.shape,
                str(folder),
                steps,
                case.batch,
                device=case.device,
                precision=case.precision,
            )
            result = run_worker(spec)
            print(
                f"  {case.title}: {trainer} {result['tokens_per_second']:.0f} tokens/s", flush=True
            )
            runs[trainer].append(result)
    about = {"title": case.title, "compared": case.compared, "shape": case.shape}
    return {**about, "steps": steps, "rounds": rounds, "runs": runs}


def run_worker(spec: WorkerSpec) -> dict[str, Any]:
    """Run one worker and return its result."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        command = [sys.executable, "-m", "tests.benchmarks.worker", json.dumps(asdict(spec)), out]
        process = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        if process.returncode:
            raise RuntimeError(f"{spec.trainer} {spec.technique}: {process.stderr[-2000:]}")
        result: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
        return result


def useful_flops(
    shape: LlamaShape, tokens: int, trained: int, rows: int, *, adapter_rank: int = 0
) -> float:
    """Return the floating-point operations that one training step needs at least.

    A matrix costs 2 per parameter and position forward, and as many backward for its input and for
    its weights. A frozen matrix needs no gradient of its weights, but its adapter needs all three.
    The last layer needs keys and values at all positions, and everything else, like the head, at
    trained positions only. Attention is two products of half a square for each row. All rows are
    taken to have the mean length, so the higher cost of ragged rows is not counted.

    ``adapter_rank``: the rank of adapters on all matrices but the head; 0 trains all weights.
    """
    rest = shape.layer_parameters - shape.keys_and_values
    body = (shape.layers - 1) * shape.layer_parameters * tokens
    last = shape.keys_and_values * tokens + rest * trained
    head = shape.hidden_size * shape.vocab_size * trained
    attention = 6.0 * shape.layers * shape.hidden_size * tokens**2 / rows
    if not adapter_rank:
        return 6.0 * (body + last + head) + attention
    adapters = (shape.layers - 1) * shape.adapter_parameters(adapter_rank) * tokens
    return 4.0 * (body + last + head) + 6.0 * adapters + attention


@dataclass(frozen=True)
class ArithmeticLimit:
    """The distance of a case from the machine's rate of matrix products."""

    share: float
    """Useful operations per second, as a share of the best rate of plain products."""
    speed: float
    """Tokens per second if all useful operations ran at that rate."""
    times: float
    """That speed divided by the one of TRL's best settings."""


def arithmetic_limit(
    case: Case, result: dict[str, Any], rates: dict[str, Any]
) -> ArithmeticLimit | None:
    """Return the limit of a supervised training, or None for other cases."""
    if not rates or case.device != "cpu" or "trl-best" not in result.get("runs", ()):
        return None
    name = max(rates, key=lambda name: float(rates[name]["best"]))
    rate = rates["float32" if case.precision == "fp32" else name]["best"]
    rank = 0 if case.technique == "full" else WorkerSpec.rank
    shape = SHAPES[result.get("shape", case.shape)]  # toy, to test the harness
    shares, speeds = [], []
    for run in result["runs"]["tunesmith"]:
        steps = list(zip(run["tokens"][1:], run["trained"][1:], strict=True))
        work = 1e-9 * sum(
            useful_flops(shape, *counts, case.batch, adapter_rank=rank) for counts in steps
        )
        shares.append(work / (run["wall"][-1] - run["wall"][0]) / rate)
        speeds.append(sum(tokens for tokens, _ in steps) * rate / work)
    best = median(run["tokens_per_second"] for run in result["runs"]["trl-best"])
    return ArithmeticLimit(median(shares), median(speeds), median(speeds) / best)


def summarize(result: dict[str, Any]) -> list[dict[str, Any]]:
    """Return medians and ranges, and tunesmith's speed relative to each, by rounds."""
    runs = result["runs"]
    lines = []
    for trainer, measured in runs.items():
        speeds = [run_worker["tokens_per_second"] for run_worker in measured]
        pairs = zip(runs["tunesmith"], measured, strict=True)
        lines.append(
            {
                "trainer": trainer,
                "speed": median(speeds),
                "low": min(speeds),
                "high": max(speeds),
                "cpu_speed": median(run_worker["tokens_per_cpu_second"] for run_worker in measured),
                "peak_mb": median(run_worker["peak_mb"] for run_worker in measured),
                "times": median(a["tokens_per_second"] / b["tokens_per_second"] for a, b in pairs),
                "memory": median(run_worker["peak_mb"] for run_worker in runs["tunesmith"])
                / median(run_worker["peak_mb"] for run_worker in measured),
            }
        )
    return lines


def loss_distance(result: dict[str, Any]) -> float:
    """Return the largest relative difference of tunesmith's losses to those of TRL's defaults."""
    runs = result["runs"]
    pairs = list(zip(runs["tunesmith"][0]["losses"], runs["trl"][0]["losses"], strict=True))
    distance: float = max(abs(a - b) / b for a, b in pairs)
    return distance
