"""Measure one training in this process: ``python -m tests.benchmarks.worker SPEC OUT``.

A step's time, in wall-clock and CPU seconds, is from the end of the previous step to its own end,
so that a trainer's work between steps counts too. The first step warms up and is not counted.
"""

from __future__ import annotations

import json
import resource
import sys
import tempfile
import time
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import has_bf16_arithmetic
from tests.benchmarks.work import SEED, SHAPES, make_rows

LEARNING_RATE = 3e-4
ALIGNMENT_TECHNIQUES = ("preference", "reward", "grpo", "grpo-kl")
"""Techniques that :mod:`tests.benchmarks.alignment` runs."""


@dataclass(frozen=True)
class WorkerSpec:
    """The training to measure."""

    trainer: str
    """``tunesmith``, ``trl`` (TRL's defaults), or other settings of TRL that the report names.

    TRL computes in bf16 by default; on a processor without bf16 arithmetic all compute in fp32.
    """
    technique: str
    shape: str
    model: str
    steps: int
    batch: int = 8
    rank: int = 16
    alpha: float = 32.0
    device: str = "cpu"
    precision: str = "auto"
    """``fp32``, or ``auto``: bf16 if the device has arithmetic for it."""

    @property
    def bf16(self) -> bool:
        """True if the training computes in bf16."""
        return self.precision == "auto" and (self.device != "cpu" or has_bf16_arithmetic())


@dataclass
class StepTimes:
    """Times at the ends of steps, and what the steps trained on."""

    device: str = "cpu"
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    rewards: list[float] = field(default_factory=list)

    def mark_step(self) -> None:
        """Record the end of a step."""
        if self.device != "cpu":
            import torch

            torch.cuda.synchronize()
        self.wall.append(time.perf_counter())
        self.cpu.append(time.process_time())

    def result(self) -> dict[str, Any]:
        """Return speed, peak memory and all records, as in ``benchmarks.json``."""
        wall, cpu = self.wall[-1] - self.wall[0], self.cpu[-1] - self.cpu[0]
        tokens = sum(self.tokens[1 : len(self.wall)])
        return {
            "tokens_per_second": tokens / wall,
            "tokens_per_cpu_second": tokens / cpu,
            "peak_mb": self._peak_mb(),
            "seconds_per_step": wall / (len(self.wall) - 1),
            **asdict(self),
        }

    def _peak_mb(self) -> float:
        """Return the peak memory of the process; on a GPU, the memory that torch reserved."""
        if self.device == "cpu":
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        import torch

        return torch.cuda.max_memory_reserved() / 2**20


def train_with_tunesmith(spec: WorkerSpec) -> StepTimes:
    """Train through the technique's offer, as a run does."""
    from tunesmith.contracts import Job
    from tunesmith.events import Event, StepFinished
    from tunesmith.options import from_table
    from tunesmith.storage import Checkpoints

    offer = getattr(
        import_module(f"tunesmith_plugins.techniques.{spec.technique}.offer"),
        spec.technique.upper(),
    )
    values: dict[str, Any] = {
        "learning_rate": LEARNING_RATE,
        "schedule": {"type": "constant", "warmup_ratio": 0.0},
        "batch_size": spec.batch,
        "max_steps": spec.steps,
        "epochs": 1,
        "precision": spec.precision,
    }
    if spec.technique != "full":
        values["adapter"] = {"rank": spec.rank, "alpha": spec.alpha}
    config = from_table(offer.config, values)
    times = StepTimes(spec.device)

    def emit(event: Event) -> None:
        if isinstance(event, StepFinished):
            times.mark_step()
            times.losses.append(event.loss)
            times.tokens.append(event.tokens)
            times.trained.append(event.trained_tokens)

    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder)
        job = Job(
            config=config,
            model=Path(spec.model),
            train=make_rows(SHAPES[spec.shape], spec.steps * spec.batch),
            validation=[],
            out=out,
            seed=SEED,
            device=spec.device,
            checkpoints=Checkpoints(out / "checkpoints"),
            emit=emit,
            technique=spec.technique,
        )
        offer.build(config).train(job)
    return times


def train_with_trl(spec: WorkerSpec) -> StepTimes:
    """Train with ``SFTTrainer``, on the same token ids in the same order."""
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.optim.schedule import BatchOrder

    tokenizer = AutoTokenizer.from_pretrained(spec.model)
    records = make_rows(SHAPES[spec.shape], spec.steps * spec.batch)
    examples = Template.from_tokenizer(tokenizer).tokenize_records(records, 2048).examples
    order = BatchOrder(len(examples), spec.batch, 1, SEED, spec.steps)
    table = []
    for _, members in order.batches(0):
        for row in members:
            ids, trained = examples[row].ids.tolist(), examples[row].trained.tolist()
            labels = [i if t else -100 for i, t in zip(ids, trained, strict=True)]
            table.append({"input_ids": ids, "labels": labels})
    best = spec.trainer == "trl-best"
    times = StepTimes(spec.device)

    class Clock(TrainerCallback):  # type: ignore[misc] - transformers has no types here
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            times.mark_step()

    with tempfile.TemporaryDirectory() as folder:
        config = SFTConfig(
            output_dir=folder,
            max_steps=spec.steps,
            # Packed rows are 512 long, so three of them are as many tokens as eight ragged rows.
            per_device_train_batch_size=max(1, spec.batch * 3 // 8) if best else spec.batch,
            learning_rate=LEARNING_RATE,
            lr_scheduler_type="constant",
            max_length=514,
            train_sampling_strategy="sequential",
            use_cpu=spec.device == "cpu",
            report_to=[],
            save_strategy="no",
            logging_steps=1,
            disable_tqdm=True,
            seed=SEED,
            dataloader_pin_memory=False,
            bf16=spec.bf16,
            **({"packing": True, "gradient_checkpointing": False} if best else {}),
            **(_quantized(spec) if spec.technique == "qlora" else {}),
        )
        torch.manual_seed(SEED)
        trainer = SFTTrainer(
            spec.model,
            config,
            train_dataset=Dataset.from_list(table),
            processing_class=tokenizer,
            callbacks=[Clock()],
            peft_config=None if spec.technique == "full" else lora_config(spec),
        )
        trainer.train()
    size = config.per_device_train_batch_size
    data = trainer.train_dataset
    batches = [range(at, min(at + size, len(data))) for at in range(0, len(data), size)]
    for step in range(len(times.wall)):
        part = [data[i] for i in batches[step % len(batches)]]
        times.tokens.append(sum(len(row["input_ids"]) for row in part))
        times.trained.append(sum(label != -100 for row in part for label in row["labels"][1:]))
    times.losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return times


def lora_config(spec: WorkerSpec) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=spec.rank, lora_alpha=spec.alpha, target_modules="all-linear", task_type="CAUSAL_LM"
    )


def _quantized(spec: WorkerSpec) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16 if spec.bf16 else torch.float32,
    )
    return {"model_init_kwargs": {"quantization_config": config}}


def main() -> None:
    spec = WorkerSpec(**json.loads(sys.argv[1]))
    if spec.technique in ALIGNMENT_TECHNIQUES:
        from tests.benchmarks import alignment

        times = alignment.run(spec)
    else:
        times = train_with_tunesmith(spec) if spec.trainer == "tunesmith" else train_with_trl(spec)
    Path(sys.argv[2]).write_text(json.dumps(times.result()), encoding="utf-8")


if __name__ == "__main__":
    main()
