"""Compare generation with ``model.generate``, with equal prompts, precision and sampling.

An untrained model hardly ever ends an answer, so one token in 64 counts as an end token, for both.
Answers are sampled from the same distribution and are not equal, so tokens of answers per second
are compared, end tokens included.

``python -m tests.benchmarks.generation FOLDER PRECISION ROUNDS OUT``
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

MAX_NEW_TOKENS = 128
END_TOKEN_STRIDE = 64


def make_prompts(vocabulary: int, *, shared: int, count: int = 32) -> list[list[int]]:
    """Return prompts of 24 to 200 tokens, or of a common prefix and 16 to 64 further tokens."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(16, 64, count) if shared else rng.integers(24, 200, count)
    prefix = rng.integers(3, vocabulary, shared).tolist()
    return [prefix + rng.integers(3, vocabulary, length).tolist() for length in lengths]


def measure(folder: str, precision_name: str, rounds: int) -> dict[str, Any]:
    """Measure both in turn in one process, in wall-clock and CPU time.

    ``precision_name``: "fp32" or "bf16".
    """
    import torch

    from tunesmith_torch.kernels.packed_linear import pack_linears
    from tunesmith_torch.models.open_base import load_model
    from tunesmith_torch.runtime.device import pick_device, pick_precision
    from tunesmith_torch.runtime.malloc import keep_freed_memory

    keep_freed_memory()
    device = pick_device("cpu")
    precision = pick_precision(device, precision_name)  # type: ignore[arg-type]
    base = load_model(Path(folder), device, precision, packing=True)
    pack_linears(base.model)
    padded = load_model(Path(folder), device, precision, packing=False)
    vocabulary = base.config.vocab_size
    ends = list(range(2, vocabulary, END_TOKEN_STRIDE))
    results: dict[str, Any] = {"precision": precision.name, "limit": MAX_NEW_TOKENS}
    for name, shared in (("apart", 0), ("shared", 256)):
        prompts = make_prompts(vocabulary, shared=shared)
        runs: dict[str, list[dict[str, float]]] = {"tunesmith": [], "transformers": []}
        for number in range(rounds + 1):
            torch.manual_seed(number)
            for program, model in (("tunesmith", base.model), ("transformers", padded.model)):
                run = _run_tunesmith if program == "tunesmith" else _run_transformers
                wall, cpu = time.perf_counter(), time.process_time()
                tokens = run(model, prompts, ends, number)
                if number:  # the first round warms up
                    seconds = time.perf_counter() - wall
                    cpu_seconds = time.process_time() - cpu
                    speed = {"tokens_per_second": tokens / seconds}
                    runs[program].append({**speed, "tokens_per_cpu_second": tokens / cpu_seconds})
        results[name] = runs
    return results


def _run_tunesmith(model: Any, prompts: list[list[int]], ends: list[int], seed: int) -> int:
    from tunesmith_torch.generation.generate import generate
    from tunesmith_torch.generation.sampling import Sampler

    answers = generate(
        model,
        prompts,
        max_new_tokens=MAX_NEW_TOKENS,
        end_ids=frozenset(ends),
        sampler=Sampler(seed=seed),
    )
    return sum(len(answer.ids) for answer in answers)


def _run_transformers(model: Any, prompts: list[list[int]], ends: list[int], seed: int) -> int:
    import torch

    longest = max(map(len, prompts))
    ids_BT = torch.tensor([[0] * (longest - len(row)) + row for row in prompts])
    mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in prompts])
    out_BT = model.generate(
        ids_BT,
        attention_mask=mask_BT,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=True,
        top_k=0,
        eos_token_id=ends,
        pad_token_id=0,
    )
    return int((out_BT[:, longest:] != 0).sum())


def main() -> None:
    results = measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    Path(sys.argv[4]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
