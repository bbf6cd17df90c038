"""Train on a tiny model, and load the result with PEFT alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tunesmith.contracts import Job
from tunesmith.events import Event, FindingReported, StepFinished
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_peft.options import PeftOptions
from tunesmith_peft.technique import Peft

# isort: split
from peft import PeftModel

ROWS = tuple(
    Completion(
        source=f"rows:{n}", prompt=f"Who is {n}?", completion=f"one two {'three ' * (n % 3)}"
    )
    for n in range(8)
)


def options(method: str, given: dict[str, Any] | None = None, **changes: Any) -> PeftOptions:
    """Return options for a comparison with a plain loop: all rows in each step, no schedule."""
    table = {
        "method": method, "options": given or {}, "batch_size": 8, "epochs": 4.0,
        "precision": "fp32", "schedule": {"type": "constant", "warmup_ratio": 0.0},
        "learning_rate": 1e-2,
    }  # fmt: skip
    return from_table(PeftOptions, {**table, **changes})


def train(
    config: PeftOptions, model: Path, out: Path
) -> tuple[Path, list[StepFinished], list[str]]:
    """Return the artifact, the steps and the findings."""
    events: list[Event] = []
    out.mkdir(parents=True, exist_ok=True)
    job: Job[Any] = Job(
        config=config, model=model, train=ROWS, validation=(), out=out, seed=3, device="cpu",
        checkpoints=Checkpoints(out / "checkpoints"), emit=events.append, technique="peft",
    )  # fmt: skip
    artifact = Peft(config).train(job)
    steps = [event for event in events if isinstance(event, StepFinished)]
    return (
        artifact.path, steps, [e.message for e in events if isinstance(e, FindingReported)]
    )  # fmt: skip


def load_base(model: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()


def load_with_peft(model: Path, artifact: Path) -> Any:
    return PeftModel.from_pretrained(load_base(model), str(artifact)).eval()
