"""Rows in tokens: guessed, assumed, or as they are; and the largest micro-batch of them."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith.records import Chat, Completion, Message, Preference
from tunesmith_torch.data.packing import pack
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate import token_lengths, workload
from tunesmith_torch.memory_estimate.model_shape import Shape
from tunesmith_torch.memory_estimate.workload import Grouping, Row
from tunesmith_torch.models.adapters import adapt_all
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.optim.schedule import Order
from tunesmith_torch.options.training import FitOptions
from tunesmith_torch.prefix.completion_groups import Group, Layout, groups_of, with_ends
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import tiny_config
from tunesmith_torch.training.sft_objective import Supervised

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
    options = FitOptions(batch_size=5, micro_batch_tokens=200, epochs=2)
    load = token_lengths.exact(options, _request(tiny_folder), 512)
    assert load is not None
    made = Template.of(load_tokenizer(tiny_folder)).examples_or_left_out(ROWS, 512)
    sizes = [len(example) for example in made.examples]
    assert load.lengths == tuple(sizes)
    assert load.tokens == 2 * sum(sizes)
    largest = 0
    for _, rows in Order(len(ROWS), 5, 2, 0).batches():
        rests = [sizes[row] - load.opening for row in rows]  # what all begin with stands once
        bins = pack(rests, max(200 - load.opening, max(rests)))
        tokens = (load.opening + sum(rests[i] for i in members) for members in bins)
        largest = max(largest, *tokens)
    assert load.opening > 0 and load.micro_batch_tokens == largest


def test_what_all_rows_begin_with_is_laid_out_once(tiny_folder: Path) -> None:
    system = Message("system", "You answer questions about capitals, and about nothing else.")
    chats = [
        Chat(source=row.source, messages=(system, *_said(row.prompt, row.completion)))
        for row in ROWS
    ]
    options = FitOptions(batch_size=5, micro_batch_tokens=300, epochs=2, precision="fp32")
    found = token_lengths.exact(options, replace(_request(tiny_folder), train=chats), 512)
    assert found is not None and found.opening > 20
    made = Template.of(load_tokenizer(tiny_folder)).examples_or_left_out(chats, 512).examples
    cpu = torch.device("cpu")
    base = load_model(tiny_folder, cpu, pick_precision(cpu, "fp32"), packing=True)
    objective = Supervised(adapt_all(base, pick_precision(cpu, "fp32")), made, packing=True)
    assert objective.opening == found.opening
    steps = Order(len(chats), 5, 2, 0).batches()
    batches = [batch for _, rows in steps for batch, _ in objective.micro_batches(rows, 300)]
    assert found.micro_batch_tokens == max(batch.tokens for batch in batches)
    padded = options.model_copy(update={"packing": False})
    apart = token_lengths.exact(padded, replace(_request(tiny_folder), train=chats), 512)
    assert apart is not None and apart.opening == 0


def _said(prompt: str, answer: str) -> tuple[Message, Message]:
    return Message("user", prompt), Message("assistant", answer)


def test_guesses_hold_the_truth_in_their_interval(tiny_folder: Path) -> None:
    options = FitOptions()
    guessed = workload.guess(options, _request(None), 512)
    true = token_lengths.exact(options, _request(tiny_folder), 512)
    assert true is not None
    low, high = guessed.spread
    assert low * sum(guessed.lengths) < sum(true.lengths) < high * sum(guessed.lengths)
    assert "guessed" in guessed.notes[0]


def test_a_system_prompt_that_the_template_writes_is_within_a_guess() -> None:
    """Short rows are mostly frame: 30 tokens that no row shows must not break the interval."""
    rows = [replace(row, prompt="hi", completion="ok") for row in ROWS]
    guessed = workload.guess(FitOptions(), replace(_request(None), train=rows), 512)
    true = sum(guessed.lengths) + 30 * len(rows)
    assert true < guessed.spread[1] * sum(guessed.lengths)


def test_what_is_assumed_stands_in() -> None:
    assumed = Assumed(sequence=100, micro_batch=3, rows=20)
    load = workload.guess(FitOptions(batch_size=4, epochs=1), _request(None, assumed), 512)
    assert (load.longest, load.micro_batch_tokens, load.steps, load.tokens) == (100, 300, 5, 2000)
    nothing = workload.guess(FitOptions(), _request(None, Assumed()), 512)
    assert nothing.longest == 512 and len(nothing.notes) == 3


PAIRS = [
    Preference(
        source=f"pairs:{i}",
        prompt=(Message("user", "What is the capital? " * (1 + i % 7)),),
        chosen="Rome. " * (1 + i % 3),
        rejected="I do not know. " * (1 + i % 4),
    )
    for i in range(37)
]


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("kind", ["pairs", "judged", "drawn"])
def test_groups_are_laid_out_as_training_does(tiny_folder: Path, kind: str, shared: bool) -> None:
    grouping = Grouping(
        both=kind != "drawn",
        ends=kind == "judged",
        drawn=(3, 11) if kind == "drawn" else None,
        shared=shared,
    )
    options = FitOptions(batch_size=5, micro_batch_tokens=300, epochs=2)
    request = replace(_request(tiny_folder), train=PAIRS, heldout=PAIRS[:3])
    load = token_lengths.exact(options, request, 512, grouping)
    assert load is not None
    template = Template.of(load_tokenizer(tiny_folder))
    groups = groups_of(PAIRS, template)
    if kind == "drawn":
        asked = list(dict.fromkeys(pair.prompt for pair in PAIRS))
        groups = [Group(ids, ([0] * 11,) * 3) for ids in template.prompts_ids(asked)]
    layout, largest, scored = Layout(sharing=shared), 0, 0
    for _, rows in Order(len(groups), 5, 2, 0).batches():
        make = with_ends if kind == "judged" else Layout.micro_batches
        for answers in make(layout, groups, rows, 300):
            if answers.batch.tokens > largest:
                largest, scored = answers.batch.tokens, len(answers.batch.trained_N)
    assert load.micro_batch_tokens == largest
    assert sum(map(grouping.scored, load.micro)) == scored
    assert len(load.heldout) == 3 and len(load.heldout[0].answers) == 2


def test_guesses_of_groups_hold_the_truth_in_their_interval(tiny_folder: Path) -> None:
    for grouping in (Grouping(both=True, shared=True), Grouping(drawn=(3, 11))):
        request = replace(_request(tiny_folder), train=PAIRS)
        guessed = workload.guess(FitOptions(), request, 512, grouping)
        true = token_lengths.exact(FitOptions(), request, 512, grouping)
        assert true is not None
        low, high = guessed.spread
        assert low * sum(guessed.lengths) < sum(true.lengths) < high * sum(guessed.lengths)


def test_padded_micro_batches_are_rectangles() -> None:
    rows = [Row(n // 2, (n // 2,)) for n in (40, 30, 20, 10)]
    load = workload.laid_out(
        FitOptions(packing=False, micro_batch_tokens=100, batch_size=8), rows, 0
    )
    assert load.micro == (rows[0],) * 2


def test_a_longer_row_is_a_micro_batch_of_its_own() -> None:
    rows = [Row(n // 2, (n // 2,)) for n in (300, 30, 20)]
    load = workload.laid_out(FitOptions(micro_batch_tokens=100, batch_size=8), rows, 0)
    assert load.micro == (rows[0],)


def test_a_row_never_grows_beyond_its_limit() -> None:
    assert Row(90, (30, 20)).within(100) == Row(70, (30, 20))
    assert Row(90, (130,)).within(100) == Row(1, (100,))
    assert Row(0, (130,)).within(100) == Row(0, (100,))


def test_a_config_without_sizes_is_refused() -> None:
    from tunesmith.errors import UsageError

    with pytest.raises(UsageError, match="num_hidden_layers"):
        Shape.of({"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9})


def test_the_first_estimate_imports_nothing_heavy() -> None:
    code = """
import sys
from tunesmith.contracts import Assumed, EstimateRequest
from tunesmith_plugins.techniques.lora.offer import LORA
from tunesmith_torch.options.training import LoraOptions
config = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
request = EstimateRequest(config=config, tokenizer=None, train=(), heldout=(), assumed=Assumed(),
                          device="cuda")
next(LORA.estimate(LoraOptions(), request)), LORA.economies(LoraOptions())
print(sorted({"torch", "numpy", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
