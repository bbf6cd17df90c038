"""Generation against ``model.generate``: the same prompts, precision and sampling, ragged answers.

An untrained model hardly ever ends an answer, so one token in 64 counts as an end, for both.
Answers are drawn from the same distribution and are not the same; what is compared is tokens of
answers, ends included, per second. ``python -m tests.benchmarks.generation FOLDER ROUNDS OUT``.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

LIMIT = 128
ONE_IN = 64


def prompts(vocabulary: int, *, shared: int, count: int = 32) -> list[list[int]]:
    """Prompts of 24 to 200 tokens, or of a shared beginning and 16 to 64 tokens of their own."""
    source = np.random.default_rng(3)
    lengths = source.integers(16, 64, count) if shared else source.integers(24, 200, count)
    beginning = source.integers(3, vocabulary, shared).tolist()
    return [beginning + source.integers(3, vocabulary, length).tolist() for length in lengths]


def measure(folder: str, rounds: int) -> dict[str, Any]:
    """Both, in turn, in one process, by the clock and by the CPU."""
    import torch

    from tunesmith_torch.models.open_base import load_model
    from tunesmith_torch.runtime.device import pick_device, pick_precision

    device = pick_device("cpu")
    precision = pick_precision(device)
    base = load_model(Path(folder), device, precision, packing=True)
    plain = load_model(Path(folder), device, precision, packing=False)
    vocabulary = base.config.vocab_size
    ends = list(range(2, vocabulary, ONE_IN))
    found: dict[str, Any] = {"precision": precision.name, "limit": LIMIT}
    for name, shared in (("apart", 0), ("shared", 256)):
        asked = prompts(vocabulary, shared=shared)
        runs: dict[str, list[dict[str, float]]] = {"tunesmith": [], "transformers": []}
        for number in range(rounds + 1):
            torch.manual_seed(number)
            for who, model in (("tunesmith", base.model), ("transformers", plain.model)):
                run = _ours if who == "tunesmith" else _theirs
                wall, cpu = time.perf_counter(), time.process_time()
                tokens = run(model, asked, ends, number)
                if number:  # the first round warms up
                    seconds = time.perf_counter() - wall
                    taken = time.process_time() - cpu
                    speed = {"tokens_per_second": tokens / seconds}
                    runs[who].append({**speed, "tokens_per_cpu_second": tokens / taken})
        found[name] = runs
    return found


def _ours(model: Any, asked: list[list[int]], ends: list[int], seed: int) -> int:
    from tunesmith_torch.generation.generate import generate
    from tunesmith_torch.generation.sampling import Sampler

    answers = generate(
        model, asked, limit=LIMIT, end_ids=frozenset(ends), sampler=Sampler(seed=seed)
    )
    return sum(len(answer.ids) for answer in answers)


def _theirs(model: Any, asked: list[list[int]], ends: list[int], seed: int) -> int:
    import torch

    longest = max(map(len, asked))
    ids_BT = torch.tensor([[0] * (longest - len(row)) + row for row in asked])
    mask_BT = torch.tensor([[0] * (longest - len(row)) + [1] * len(row) for row in asked])
    out_BT = model.generate(
        ids_BT,
        attention_mask=mask_BT,
        max_new_tokens=LIMIT,
        do_sample=True,
        top_k=0,
        eos_token_id=ends,
        pad_token_id=0,
    )
    return int((out_BT[:, longest:] != 0).sum())


def main() -> None:
    found = measure(sys.argv[1], int(sys.argv[2]))
    Path(sys.argv[3]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main()
