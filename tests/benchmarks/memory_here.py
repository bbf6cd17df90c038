"""Peak memory of training on this machine, beside what the planner says of it.

``python -m tests.benchmarks.memory_here MODEL_FOLDER`` trains for a few steps in a fresh process
for each of several combinations of technique, length, batch, checkpointing and precision, and
prints predicted and measured peak resident memory. Other processes do not disturb it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

MIB = 2**20


@dataclass(frozen=True)
class Combination:
    """One run."""

    method: str
    sequence: int
    rows: int
    checkpointing: bool
    precision: str
    batch: int = 0
    """Rows of a step; 0: as many as a micro-batch has."""


COMBINATIONS = (
    Combination("lora", 512, 4, False, "bf16"),
    Combination("qlora", 256, 4, True, "bf16"),
    Combination("full", 256, 2, False, "bf16"),
    Combination("lora", 512, 8, True, "bf16"),
    Combination("qlora", 512, 4, False, "bf16"),
    Combination("full", 512, 4, True, "bf16"),
    Combination("lora", 512, 2, False, "fp32"),
    Combination("qlora", 1024, 2, True, "bf16"),
    Combination("full", 512, 2, False, "fp32"),
    Combination("lora", 1024, 4, False, "bf16"),
    Combination("full", 256, 4, False, "bf16", batch=8),
    Combination("qlora", 256, 2, True, "fp32"),
    Combination("full", 512, 4, False, "bf16"),
    Combination("lora", 256, 2, False, "bf16"),
)


def main(arguments: Sequence[str]) -> int:
    """Run all combinations, or, called with one as JSON, that one alone."""
    if len(arguments) == 3:
        print(json.dumps(_measure(Path(arguments[0]), Combination(**json.loads(arguments[1])))))
        return 0
    if len(arguments) != 1:
        print("usage: python -m tests.benchmarks.memory_here MODEL_FOLDER", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")
    errors, over = [], 0
    for combination, measured in _measured(Path(arguments[0])):
        low, expected, high = _predicted(Path(arguments[0]), combination)
        errors.append(abs(expected / measured - 1))
        over += measured > high
        what = (
            f"{combination.method:6}{combination.precision:5}{combination.sequence:5} x "
            f"{combination.rows:<2}{' checkpointing' if combination.checkpointing else '':14}"
        )
        said = f"[{low / MIB:6.0f} {expected / MIB:6.0f} {high / MIB:6.0f}]"
        flag = "  ABOVE THE UPPER BOUND" if measured > high else ""
        print(f"{what} {measured / MIB:6.0f} MiB {said} {expected / measured - 1:+6.1%}{flag}")
    print(f"median error {median(errors):.1%}, worst {max(errors):.1%}, over {over}")
    return 0


def _measured(model: Path) -> Iterator[tuple[Combination, int]]:
    """Each combination's peak, from a process of its own."""
    for combination in COMBINATIONS:
        one = json.dumps(asdict(combination))
        module = "tests.benchmarks.memory_here"
        command = [sys.executable, "-W", "ignore", "-m", module, str(model), one, "alone"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
        if done.returncode:
            print(done.stderr[-500:], file=sys.stderr)
            continue
        yield combination, int(json.loads(done.stdout.splitlines()[-1]))


def _options(combination: Combination) -> dict[str, object]:
    return {
        "batch": combination.batch or combination.rows,
        "micro_tokens": combination.sequence * combination.rows,
        "max_tokens": combination.sequence,
        "checkpointing": combination.checkpointing,
        "precision": combination.precision,
        "max_steps": 2,
    }


def _predicted(model: Path, combination: Combination) -> tuple[int, int, int]:
    from tunesmith.contracts import Assumed, EstimateRequest
    from tunesmith_plugins.full.offer import FullOptions
    from tunesmith_torch.options import LoraOptions, QloraOptions
    from tunesmith_torch.planner import estimates

    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    batch = combination.batch or combination.rows
    assumed = Assumed(sequence=combination.sequence, micro_batch=combination.rows, rows=batch * 2)
    request = EstimateRequest(
        config=config, tokenizer=None, train=(), heldout=(), assumed=assumed, device="cpu"
    )
    options = _options(combination)
    match combination.method:
        case "full":
            found = estimates.full(FullOptions.model_validate(options), request)
        case "lora":
            found = estimates.lora(LoraOptions.model_validate(options), request)
        case _:
            found = estimates.qlora(QloraOptions.model_validate(options), request)
    *_, last = found
    phases = [last.memory[phase] for phase in ("load", "train")]
    worst = max(phases, key=lambda memory: memory.expected)
    return worst.low, worst.expected, max(memory.high for memory in phases)


def _measure(model: Path, combination: Combination) -> int:
    """Train on rows of exactly that length, half of it with loss; this process's peak."""
    import numpy as np
    import torch

    from tunesmith.contracts import Job
    from tunesmith.storage import Checkpoints
    from tunesmith_torch.adapt import adapt_all, adapt_lora
    from tunesmith_torch.device import pick_precision
    from tunesmith_torch.finetune import load_model, refuse_disagreement
    from tunesmith_torch.fit import fit
    from tunesmith_torch.memory import peak_bytes
    from tunesmith_torch.options import FitOptions, LoraOptions, QloraOptions
    from tunesmith_torch.packing import Example
    from tunesmith_torch.quantize import Quantization
    from tunesmith_torch.supervised import Supervised

    kinds: dict[str, type[FitOptions]] = {"lora": LoraOptions, "qlora": QloraOptions}
    kinds["full"] = FitOptions
    options = kinds[combination.method].model_validate(_options(combination))
    device = torch.device("cpu")
    precision = pick_precision(device, options.precision)
    quantization = Quantization.of(options) if isinstance(options, QloraOptions) else None
    base = load_model(model, device, precision, packing=True, quantization=quantization)
    if isinstance(options, LoraOptions):
        adapted = adapt_lora(base, precision, options, 0)
    else:
        adapted = adapt_all(base, precision)
    refuse_disagreement(adapted, packing=True)
    if options.checkpointing:
        base.model.gradient_checkpointing_enable({"use_reentrant": False})
    rows, source = 2 * options.batch, np.random.default_rng(0)
    length = combination.sequence
    examples = [
        Example(source.integers(3, 400, length), np.arange(length) >= length // 2)
        for _ in range(rows)
    ]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        job = Job(
            config=options,
            model=model,
            train=(),
            heldout=(),
            out=out,
            seed=0,
            device="cpu",
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=lambda event: None,
            technique=combination.method,
        )
        fit(job, adapted, Supervised(adapted, examples, packing=True), seed=0)
    return peak_bytes(device)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
