"""Profile training steps: ``python -m tests.benchmarks.step_profile full s40 auto``.

The arguments are the technique (``full`` or ``lora``), the model's shape, and the precision. The
command prints the operations that take most of a step on one core, and the rate of its useful
operations as a share of plain matrix products. Rows are those of the other benchmarks.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.benchmarks.machine import measure_matrix_rate
from tests.benchmarks.training import useful_flops
from tests.benchmarks.work import SHAPES, build_model, make_rows

BATCH, STEPS, BUDGET = 8, 3, 8192


class Steps:
    """A model with rows, and steps that the training loop would take on them."""

    def __init__(self, folder: Path, examples: Sequence[Any], technique: str, name: str) -> None:
        import torch

        from tunesmith_plugins.techniques.full.options import FullOptions
        from tunesmith_plugins.techniques.lora.options import LoraOptions
        from tunesmith_torch.models.adapters import adapt_full, adapt_lora
        from tunesmith_torch.models.open_base import load_model
        from tunesmith_torch.optim.master_weights import MasterWeights
        from tunesmith_torch.runtime.device import pick_precision
        from tunesmith_torch.runtime.malloc import keep_freed_memory
        from tunesmith_torch.training.supervised import NextTokenObjective

        keep_freed_memory()
        self.precision = pick_precision(torch.device("cpu"), name)  # type: ignore[arg-type]
        base = load_model(folder, torch.device("cpu"), self.precision, packing=True)
        options: Any = {"lora": LoraOptions, "full": FullOptions}[technique]()
        self.adapted = (
            adapt_lora(base, self.precision, options.adapter, 0)
            if technique == "lora"
            else adapt_full(base, self.precision)
        )
        self.objective = NextTokenObjective(self.adapted, examples, packing=True)
        self.masters = MasterWeights(self.adapted.named_trainable_parameters, options)
        self.adapted.model.train()

    def take(self, rows: Sequence[int]) -> tuple[int, int]:
        """Take a step on these rows; return their tokens, and the tokens in the loss."""
        counts = self.objective.counts(rows)
        self.masters.zero_grad()
        for part in self.objective.micro_batches(rows, BUDGET):
            with self.adapted.autocast():
                loss = self.objective.loss(part) / counts.loss_divisor
            loss.backward()  # type: ignore[no-untyped-call]
        self.masters.clip_grad_norm(1.0)
        self.masters.step(1e-5)
        return counts.tokens, counts.trained_tokens


def main() -> None:
    import torch
    from torch.profiler import ProfilerActivity, profile
    from transformers import AutoTokenizer

    from tunesmith_torch.data.templates import Template

    technique, shape, precision = sys.argv[1:]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as name:
        folder = build_model(SHAPES[shape], Path(name) / shape)
        template = Template.from_tokenizer(AutoTokenizer.from_pretrained(folder))
        records = make_rows(SHAPES[shape], BATCH * (STEPS + 1))
        examples = template.tokenize_records(records, 2048).examples
        steps = Steps(folder, examples, technique, precision)
    batches = [range(BATCH * n, BATCH * (n + 1)) for n in range(STEPS + 1)]
    steps.take(batches[0])
    rate = measure_matrix_rate()[steps.precision.name]["best"]
    started = time.process_time()
    counts = [steps.take(batch) for batch in batches[1:]]
    seconds = time.process_time() - started
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for batch in batches[1:]:
            steps.take(batch)
    found = sorted(profiler.key_averages(), key=lambda each: -each.self_cpu_time_total)
    total = sum(each.self_cpu_time_total for each in found)
    print(f"{technique}, {SHAPES[shape].name}, {steps.precision.name}")
    print("| operation | share of the time | calls per step |\n|---|---|---|")
    for each in found[:10]:
        share = each.self_cpu_time_total / total
        print(f"| `{each.key.removeprefix('aten::')}` | {share:.1%} | {each.count // STEPS:,} |")
    print(f"\n{sum(tokens for tokens, _ in counts) / seconds:.0f} tokens per CPU second")
    if technique == "full":
        work = sum(
            useful_flops(SHAPES[shape], tokens, trained, BATCH) for tokens, trained in counts
        )
        print(f"{1e-9 * work / seconds / rate:.2f} of the rate of matrix products")


if __name__ == "__main__":
    main()
