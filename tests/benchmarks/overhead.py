"""Measure what the training loop takes beside the computation, and the start of a run.

Both trainings of a pair get the same batches of a tiny model, and take blocks of steps in turn in
one process: the loop of the toolkit, and a plain PyTorch loop that is written here. The difference
of their times is the overhead: laying rows out, accumulating, clipping, events, checkpoints.
``python -m tests.benchmarks.overhead MODEL ROUNDS OUT``.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

STEPS = 20
"""Steps of a block; the first two are not counted."""
UNCOUNTED = 2
BATCH_SIZE = 8
ROWS = 160


class Clock:
    """CPU and wall-clock time of each step."""

    def __init__(self) -> None:
        self.marks: list[tuple[float, float]] = []

    def mark(self) -> None:
        """Record the end of a step."""
        self.marks.append((time.process_time(), time.perf_counter()))

    def milliseconds(self) -> tuple[float, float]:
        """Return the mean CPU and wall-clock time of a step, of those that count."""
        first, last = self.marks[UNCOUNTED - 1], self.marks[-1]
        steps = len(self.marks) - UNCOUNTED
        return 1e3 * (last[0] - first[0]) / steps, 1e3 * (last[1] - first[1]) / steps


class Pair:
    """A model with the rows that both loops train on."""

    def __init__(self, folder: Path, technique: str, *, fused: bool) -> None:
        import torch

        from tunesmith_plugins.techniques.full.options import FullOptions
        from tunesmith_plugins.techniques.lora.options import LoraOptions
        from tunesmith_torch.data.packing import Example
        from tunesmith_torch.models.adapters import adapt_full, adapt_lora
        from tunesmith_torch.models.open_base import load_model
        from tunesmith_torch.runtime.device import pick_precision
        from tunesmith_torch.training.supervised import NextTokenObjective

        settings: dict[str, Any] = {
            "batch_size": BATCH_SIZE,
            "max_steps": STEPS,
            "micro_batch_tokens": 4096,
            "fused_kernels": fused,
            "packing": fused,
        }
        cpu = torch.device("cpu")
        precision = pick_precision(cpu, "fp32")
        base = load_model(folder, cpu, precision, packing=fused, fused_kernels=fused)
        self.options = (LoraOptions if technique == "lora" else FullOptions)(**settings)
        self.adapted = (
            adapt_lora(base, precision, self.options.adapter, 0, fused_kernels=fused)
            if isinstance(self.options, LoraOptions)
            else adapt_full(base, precision)
        )
        numbers, vocabulary = torch.Generator().manual_seed(0), base.config.vocab_size
        lengths = torch.randint(8, 40, (ROWS,), generator=numbers).tolist()
        ids = [torch.randint(vocabulary, (n,), generator=numbers).numpy() for n in lengths]
        self.examples = [Example(row, torch.arange(len(row)).numpy() >= 6) for row in ids]
        self.objective = NextTokenObjective(self.adapted, self.examples, packing=fused)
        self.fused = fused

    def run_toolkit_loop(self, clock: Clock) -> None:
        """Train with the toolkit's loop."""
        from tunesmith.contracts import Job
        from tunesmith.events import Event, StepFinished
        from tunesmith.storage import Checkpoints
        from tunesmith_torch.training.loop import run_training_loop

        def emit(event: Event) -> None:
            if isinstance(event, StepFinished):
                clock.mark()

        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            job = Job(
                config=self.options,
                model=out,
                train=[],
                validation=[],
                out=out,
                seed=0,
                device="cpu",
                checkpoints=Checkpoints(out / "checkpoints"),
                emit=emit,
                technique="overhead",
            )
            run_training_loop(job, self.adapted, self.objective, seed=0)

    def run_plain_loop(self, clock: Clock) -> None:
        """Train with a plain loop over batches that are laid out before."""
        import torch

        from tunesmith_torch.optim.schedule import BatchOrder, LearningRateSchedule

        model = self.adapted.model.train()
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(parameters, betas=self.options.optimizer.betas, fused=True)
        order = BatchOrder.from_options(len(self.examples), self.options, 0)
        schedule = LearningRateSchedule.from_options(self.options, order.steps)
        for step, (loss_of, count) in enumerate(
            self._plain_batches([r for _, r in order.batches()])
        ):
            loss = loss_of() / count
            loss.backward()  # type: ignore[no-untyped-call]
            norm = torch.nn.utils.clip_grad_norm_(parameters, self.options.optimizer.max_grad_norm)
            for group in optimizer.param_groups:
                group["lr"] = schedule.learning_rate_at(step)
            optimizer.step()
            optimizer.zero_grad()
            torch.stack([loss.detach(), norm]).tolist()
            clock.mark()

    def _plain_batches(self, batches: Sequence[Sequence[int]]) -> Iterator[tuple[Any, int]]:
        """Yield a function for each batch that returns its summed loss, and its trained tokens.

        With fused kernels it is the toolkit's loss over one micro-batch; without, the model's
        forward pass on padded rows and torch's cross-entropy.
        """
        import torch

        prepared: list[tuple[Callable[[], torch.Tensor], int]] = []
        for rows in batches:
            count = int(self.objective.counts(rows).loss_divisor)
            if self.fused:
                (micro_batch,) = self.objective.micro_batches(rows, 4096)
                prepared.append((lambda batch=micro_batch: self.objective.loss(batch), count))
                continue
            longest = max(len(self.examples[row]) for row in rows)
            ids = torch.zeros(len(rows), longest, dtype=torch.long)
            labels, mask = torch.full_like(ids, -100), torch.zeros_like(ids)
            for place, row in enumerate(rows):
                example = self.examples[row]
                tokens, trained = torch.as_tensor(example.ids), torch.as_tensor(example.trained)
                ids[place, : len(tokens)], mask[place, : len(tokens)] = tokens, 1
                labels[place, : len(tokens)] = torch.where(trained, tokens, -100)
            prepared.append((lambda i=ids, m=mask, t=labels: self._plain_loss(i, m, t), count))
        yield from prepared

    def _plain_loss(self, ids: Any, mask: Any, labels: Any) -> Any:
        import torch

        logits = self.adapted.model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        flat = logits[:, :-1].flatten(0, 1).float()
        return torch.nn.functional.cross_entropy(flat, labels[:, 1:].flatten(), reduction="sum")


CASES = {
    "full, fused kernels in both": ("full", True),
    "LoRA, fused kernels in both": ("lora", True),
    "full, transformers' layers in both": ("full", False),
    "LoRA, PEFT's and transformers' layers in both": ("lora", False),
}


def measure(folder: Path, rounds: int) -> dict[str, Any]:
    """Return for each case the times of a step, round by round; the first round warms up."""
    import torch

    torch.set_num_threads(1)
    cases: dict[str, Any] = {}
    for name, (technique, fused) in CASES.items():
        pair = Pair(folder, technique, fused=fused)
        runs: dict[str, list[tuple[float, float]]] = {"toolkit": [], "plain": []}
        for number in range(rounds + 1):
            for loop, run in (("toolkit", pair.run_toolkit_loop), ("plain", pair.run_plain_loop)):
                clock = Clock()
                run(clock)
                if number:
                    runs[loop].append(clock.milliseconds())
        cases[name] = runs
    return {"steps": STEPS - UNCOUNTED, "cases": cases}


if __name__ == "__main__":
    result = measure(Path(sys.argv[1]), int(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(result), encoding="utf-8")
