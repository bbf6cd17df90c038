"""Rows in tokens: guessed, assumed, or as they are; and the largest micro-batch of them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith.records import Completion
from tunesmith_torch.load import load_tokenizer
from tunesmith_torch.options import FitOptions
from tunesmith_torch.packing import pack
from tunesmith_torch.planner import lengths, workload
from tunesmith_torch.planner.shape import Shape
from tunesmith_torch.schedule import Order
from tunesmith_torch.templates import Template
from tunesmith_torch.tiny import tiny_config

ROWS = [
    Completion(source=f"rows:{i}", prompt="What is the capital? " * (1 + i % 5), completion="Rome.")
    for i in range(37)
]


def _request(tokenizer: Path | None, assumed: Assumed | None = None) -> EstimateRequest:
    return EstimateRequest(
        config=tiny_config().to_dict(),
        tokenizer=tokenizer,
        train=ROWS if assumed is None else (),
        heldout=(),
        assumed=assumed,
        device="cpu",
    )


def test_with_a_tokenizer_everything_is_exact(tiny_folder: Path) -> None:
    options = FitOptions(batch=5, micro_tokens=200, epochs=2)
    load = lengths.exact(options, _request(tiny_folder), 512)
    assert load is not None
    made = Template.of(load_tokenizer(tiny_folder)).examples_or_left_out(ROWS, 512)
    sizes = [len(example) for example in made.examples]
    assert load.lengths == tuple(sizes)
    assert load.tokens == 2 * sum(sizes)
    largest = 0
    for _, rows in Order(len(ROWS), 5, 2, 0).batches():
        here = [sizes[row] for row in rows]
        bins = pack(here, max(200, max(here)))
        largest = max(largest, *(sum(here[i] for i in members) for members in bins))
    assert load.micro_tokens == largest


def test_guesses_hold_the_truth_in_their_interval(tiny_folder: Path) -> None:
    options = FitOptions()
    guessed = workload.guess(options, _request(None), 512)
    true = lengths.exact(options, _request(tiny_folder), 512)
    assert true is not None
    low, high = guessed.spread
    assert low * sum(guessed.lengths) < sum(true.lengths) < high * sum(guessed.lengths)
    assert "guessed" in guessed.notes[0]


def test_what_is_assumed_stands_in() -> None:
    assumed = Assumed(sequence=100, micro_batch=3, rows=20)
    load = workload.guess(FitOptions(batch=4, epochs=1), _request(None, assumed), 512)
    assert (load.longest, load.micro_tokens, load.steps, load.tokens) == (100, 300, 5, 2000)
    nothing = workload.guess(FitOptions(), _request(None, Assumed()), 512)
    assert nothing.longest == 512 and len(nothing.notes) == 3


def test_padded_micro_batches_are_rectangles() -> None:
    load = workload.laid_out(
        FitOptions(packing=False, micro_tokens=100, batch=8), [40, 30, 20, 10], 0.5, 0
    )
    assert load.micro == (40, 40)


def test_a_longer_row_is_a_micro_batch_of_its_own() -> None:
    load = workload.laid_out(FitOptions(micro_tokens=100, batch=8), [300, 30, 20], 0.5, 0)
    assert load.micro == (300,)


def test_a_config_without_sizes_is_refused() -> None:
    from tunesmith.errors import UsageError

    with pytest.raises(UsageError, match="num_hidden_layers"):
        Shape.of({"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9})


def test_the_first_estimate_imports_nothing_heavy() -> None:
    code = """
import sys
from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith_plugins.lora.offer import LORA
from tunesmith_torch.options import LoraOptions
config = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
request = EstimateRequest(config=config, tokenizer=None, train=(), heldout=(), assumed=Assumed(),
                          device="cuda")
next(LORA.estimate(LoraOptions(), request)), LORA.economies(LoraOptions())
print(sorted({"torch", "numpy", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
