"""Measure how fast rows are tokenized and packed, beside TRL: ``... MODEL ROUNDS ROWS OUT``.

Both prepare the same rows of English text for packed rows of 2048 tokens, in turn, in one process.
The CPU time includes child processes. The first round warms up.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import psutil
from tests.benchmarks.texts import make_passages

MAX_LENGTH = 2048


def prepare_with_tunesmith(model: Path, rows: list[dict[str, str]]) -> Callable[[], int]:
    """Return a function that prepares the rows and returns the number of tokens."""
    from tunesmith.records import Completion
    from tunesmith_torch.data.packing import pack
    from tunesmith_torch.data.templates import Template
    from tunesmith_torch.models.loading import load_tokenizer

    template = Template.from_tokenizer(load_tokenizer(model))
    records = [Completion(source=f"rows:{n}", **row) for n, row in enumerate(rows)]

    def prepare() -> int:
        tokenized = template.tokenize_records(records, MAX_LENGTH)
        pack(tokenized.examples.lengths, MAX_LENGTH)
        return tokenized.tokens

    return prepare


def prepare_with_trl(model: Path, rows: list[dict[str, str]], folder: Path) -> Callable[[], int]:
    """Return a function that has TRL's trainer prepare the rows, and returns their tokens."""
    import datasets
    from transformers import AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    from tunesmith_torch.testing.tiny_model import save_tiny_model

    datasets.disable_caching()
    datasets.disable_progress_bars()
    chats = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]
    config = SFTConfig(
        output_dir=str(folder / "out"),
        packing=True,
        max_length=MAX_LENGTH,
        use_cpu=True,
        bf16=False,
        report_to=[],
    )
    trainer = SFTTrainer(
        str(save_tiny_model(folder / "model")),
        config,
        train_dataset=datasets.Dataset.from_list(chats[:8]),
        processing_class=AutoTokenizer.from_pretrained(model),
    )

    def prepare() -> int:
        data = trainer._prepare_dataset(
            datasets.Dataset.from_list(chats), trainer.processing_class, config, True, None, "train"
        )
        return sum(map(len, data["input_ids"]))

    return prepare


def _measure(prepare: Callable[[], int]) -> dict[str, float]:
    wall, cpu = time.perf_counter(), _cpu_seconds()
    tokens = prepare()
    wall, cpu = time.perf_counter() - wall, _cpu_seconds() - cpu
    return {"seconds": wall, "cpu_seconds": cpu, "tokens": tokens}


def _cpu_seconds() -> float:
    """Return the CPU time of this process, its threads, and its child processes."""
    process = psutil.Process()
    times = [one.cpu_times() for one in (process, *process.children(recursive=True))]
    return sum(one.user + one.system for one in times)


def main() -> None:
    model, rounds, count, out = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    rows = list(islice(make_passages(), count))
    with tempfile.TemporaryDirectory() as folder:
        programs = {
            "tunesmith": prepare_with_tunesmith(model, rows),
            "trl": prepare_with_trl(model, rows, Path(folder)),
        }
        runs: dict[str, list[dict[str, float]]] = {name: [] for name in programs}
        for number in range(rounds + 1):
            for name, prepare in programs.items():
                measured = _measure(prepare)
                if number:
                    runs[name].append(measured)
    megabytes = sum(len(row["prompt"]) + len(row["completion"]) for row in rows) / 1e6
    result: dict[str, Any] = {"rows": count, "megabytes": megabytes, "runs": runs}
    Path(out).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main()
