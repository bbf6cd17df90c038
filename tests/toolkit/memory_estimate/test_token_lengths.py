"""Row lengths that are guessed, assumed or exact, and the largest micro-batch of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tunesmith.estimates import Assumptions, EstimateRequest
from tunesmith.records import Chat, Completion, Message, Preference, Record, UnpairedPreference
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.data import large_data
from tunesmith_torch.data.packing import pack
from tunesmith_torch.data.templates import Template
from tunesmith_torch.memory_estimate import token_lengths, workload
from tunesmith_torch.memory_estimate.model_shape import ModelShape
from tunesmith_torch.memory_estimate.techniques import estimate_supervised
from tunesmith_torch.memory_estimate.workload import Grouping, RowLengths
from tunesmith_torch.models.adapters import adapt_full
from tunesmith_torch.models.loading import load_tokenizer
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.optim.schedule import BatchOrder
from tunesmith_torch.options.training import TrainingOptions
from tunesmith_torch.prefix.completion_groups import (
    CompletionGroup,
    GroupLayout,
    collate_final_tokens,
    tokenize_preferences,
)
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.testing.tiny_model import build_tiny_config
from tunesmith_torch.training.supervised import NextTokenObjective

ROWS = [
    Completion(source=f"rows:{i}", prompt="What is the capital? " * (1 + i % 5), completion="Rome.")
    for i in range(37)
]


def _request(tokenizer: Path | None, assumed: Assumptions | None = None) -> EstimateRequest:
    return EstimateRequest(
        config=build_tiny_config().to_dict(),
        tokenizer=tokenizer,
        train=ROWS if assumed is None else (),
        test=(),
        assumed=assumed,
        device="cpu",
    )


def test_with_a_tokenizer_lengths_and_micro_batch_are_exact(tiny_folder: Path) -> None:
    options = TrainingOptions(batch_size=5, micro_batch_tokens=200, epochs=2)
    exact = token_lengths.exact_workload(options, _request(tiny_folder), 512)
    assert exact is not None
    tokenized = Template.from_tokenizer(load_tokenizer(tiny_folder)).tokenize_records(ROWS, 512)
    sizes = [len(example) for example in tokenized.examples]
    assert exact.row_tokens == tuple(sizes)
    assert exact.tokens == 2 * sum(sizes)
    prefix = exact.common_prefix_tokens
    largest = 0
    for _, rows in BatchOrder(len(ROWS), 5, 2, 0).batches():
        own_tokens = [sizes[row] - prefix for row in rows]  # a micro-batch holds the prefix once
        micro_batches = pack(own_tokens, max(200 - prefix, max(own_tokens)))
        tokens = (prefix + sum(own_tokens[i] for i in members) for members in micro_batches)
        largest = max(largest, *tokens)
    assert prefix > 0 and exact.micro_batch_tokens == largest


def test_an_estimate_with_a_tokenizer_counts_its_tokens_before_it_traces(tiny_folder: Path) -> None:
    options = LoraOptions(epochs=2, learning_rate=1e-3)
    guess, exact, traced = estimate_supervised(options, _request(tiny_folder))
    tokenizer = Template.from_tokenizer(load_tokenizer(tiny_folder))
    rows = tokenizer.tokenize_records(ROWS, 512).examples
    assert [exact.method, traced.method] == ["analytic", "traced"]
    assert exact.tokens == traced.tokens == 2 * sum(map(len, rows)) != guess.tokens
    assert guess.has_guessed_lengths and not exact.has_guessed_lengths
    guess, traced = estimate_supervised(options, _request(None))
    assert not guess.has_guessed_lengths, "nothing better follows, except tracing"


def test_the_sample_of_large_data_stands_for_all_rows(
    tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planner reads a few rows only, and counts the tokens of all."""
    monkeypatch.setattr(large_data, "LARGE_CHARACTERS", 1000)
    rows = [Completion(source=f"r:{n}", prompt="a b c", completion="ten") for n in range(1234)]
    request = replace(_request(tiny_folder), train=rows)
    options = TrainingOptions(epochs=1, batch_size=10)
    exact = token_lengths.exact_workload(options, request, 512)
    assert exact is not None and exact.steps == 124
    assert exact.tokens == 1234 * exact.row_tokens[0]
    assert exact.notes == ("row lengths come from a sample: 1,000 of 1,234 rows",)
    guessed = workload.guess_workload(options, request, 512)
    assert guessed.steps == 124 and guessed.tokens == 1234 * guessed.row_tokens[0]


def test_the_common_prefix_of_all_rows_is_laid_out_once(tiny_folder: Path) -> None:
    system = Message("system", "You answer questions about capitals, and about nothing else.")
    chats = [
        Chat(source=row.source, messages=(system, *_exchange(row.prompt, row.completion)))
        for row in ROWS
    ]
    options = TrainingOptions(batch_size=5, micro_batch_tokens=300, epochs=2, precision="fp32")
    packed = token_lengths.exact_workload(options, replace(_request(tiny_folder), train=chats), 512)
    assert packed is not None and packed.common_prefix_tokens > 20
    examples = (
        Template.from_tokenizer(load_tokenizer(tiny_folder)).tokenize_records(chats, 512).examples
    )
    cpu = torch.device("cpu")
    base = load_model(tiny_folder, cpu, pick_precision(cpu, "fp32"), packing=True)
    objective = NextTokenObjective(
        adapt_full(base, pick_precision(cpu, "fp32")), examples, packing=True
    )
    assert objective.prefix_length == packed.common_prefix_tokens
    steps = BatchOrder(len(chats), 5, 2, 0).batches()
    batches = [batch for _, rows in steps for batch, _ in objective.micro_batches(rows, 300)]
    assert packed.micro_batch_tokens == max(batch.tokens for batch in batches)
    options = options.model_copy(update={"packing": False})
    padded = token_lengths.exact_workload(options, replace(_request(tiny_folder), train=chats), 512)
    assert padded is not None and padded.common_prefix_tokens == 0


def _exchange(prompt: str, answer: str) -> tuple[Message, Message]:
    return Message("user", prompt), Message("assistant", answer)


def test_the_interval_of_a_guess_contains_the_exact_number_of_tokens(tiny_folder: Path) -> None:
    options = TrainingOptions()
    guessed = workload.guess_workload(options, _request(None), 512)
    exact = token_lengths.exact_workload(options, _request(tiny_folder), 512)
    assert exact is not None
    low, high = guessed.length_factors
    assert low * sum(guessed.row_tokens) < sum(exact.row_tokens) < high * sum(guessed.row_tokens)
    assert "estimated at 3.8 characters per token" in guessed.notes[0]


def test_the_interval_of_a_guess_has_room_for_a_default_system_prompt() -> None:
    """Short rows are mostly template: 30 more tokens of it must be within the interval."""
    rows = [replace(row, prompt="hi", completion="ok") for row in ROWS]
    guessed = workload.guess_workload(TrainingOptions(), replace(_request(None), train=rows), 512)
    with_system_prompt = sum(guessed.row_tokens) + 30 * len(rows)
    assert with_system_prompt < guessed.length_factors[1] * sum(guessed.row_tokens)


def test_assumed_rows_take_the_place_of_data() -> None:
    assumed = Assumptions(sequence=100, micro_batch=3, rows=20)
    guessed = workload.guess_workload(
        TrainingOptions(batch_size=4, epochs=1), _request(None, assumed), 512
    )
    assert (guessed.longest_row, guessed.micro_batch_tokens) == (100, 300)
    assert (guessed.steps, guessed.tokens) == (5, 2000)
    by_default = workload.guess_workload(TrainingOptions(), _request(None, Assumptions()), 512)
    assert by_default.longest_row == 512 and len(by_default.notes) == 3


PAIRS = [
    Preference(
        source=f"pairs:{i}",
        prompt=(Message("user", "What is the capital? " * (1 + i % 7)),),
        chosen="Rome. " * (1 + i % 3),
        rejected="I do not know. " * (1 + i % 4),
    )
    for i in range(37)
]


LABELLED = [
    UnpairedPreference(
        source=pair.source, prompt=pair.prompt, completion=pair.rejected, label=i % 2 > 0
    )
    for i, pair in enumerate(PAIRS)
]


@pytest.mark.parametrize("shares_prompt", [True, False])
@pytest.mark.parametrize("kind", ["pairs", "labeled", "reward", "sampled"])
def test_groups_are_laid_out_as_in_training(
    tiny_folder: Path, kind: str, shares_prompt: bool
) -> None:
    grouping = Grouping(
        both_completions=kind != "sampled",
        scores_last_token=kind == "reward",
        sampled_completions=(3, 11) if kind == "sampled" else None,
        shares_prompt=shares_prompt,
    )
    options = TrainingOptions(batch_size=5, micro_batch_tokens=300, epochs=2)
    train: Sequence[Record] = LABELLED if kind == "labeled" else PAIRS
    request = replace(_request(tiny_folder), train=train, test=train[:3])
    exact = token_lengths.exact_workload(options, request, 512, grouping)
    assert exact is not None
    template = Template.from_tokenizer(load_tokenizer(tiny_folder))
    groups: Sequence[CompletionGroup] = tokenize_preferences(train, template)
    if kind == "sampled":
        prompts = list(dict.fromkeys(pair.prompt for pair in PAIRS))
        groups = [CompletionGroup(ids, ([0] * 11,) * 3) for ids in template.encode_prompts(prompts)]
    layout, largest, scored = GroupLayout(share_prompts=shares_prompt), 0, 0
    for _, rows in BatchOrder(len(groups), 5, 2, 0).batches():
        micro_batches = collate_final_tokens if kind == "reward" else GroupLayout.micro_batches
        for micro_batch in micro_batches(layout, groups, rows, 300):
            if micro_batch.batch.tokens > largest:
                largest, scored = micro_batch.batch.tokens, len(micro_batch.batch.trained_N)
    assert exact.micro_batch_tokens == largest
    assert sum(map(grouping.loss_positions, exact.micro_batch)) == scored
    assert len(exact.test) == 3
    assert len(exact.test[0].completions) == (1 if kind == "labeled" else 2)


def test_the_interval_of_guessed_groups_contains_the_exact_number_of_tokens(
    tiny_folder: Path,
) -> None:
    for grouping in (
        Grouping(both_completions=True, shares_prompt=True),
        Grouping(sampled_completions=(3, 11)),
    ):
        request = replace(_request(tiny_folder), train=PAIRS)
        guessed = workload.guess_workload(TrainingOptions(), request, 512, grouping)
        exact = token_lengths.exact_workload(TrainingOptions(), request, 512, grouping)
        assert exact is not None
        low, high = guessed.length_factors
        guess = sum(guessed.row_tokens)
        assert low * guess < sum(exact.row_tokens) < high * guess


def test_padded_micro_batches_are_rectangles() -> None:
    rows = [RowLengths(n // 2, (n // 2,)) for n in (40, 30, 20, 10)]
    padded = workload.build_workload(
        TrainingOptions(packing=False, micro_batch_tokens=100, batch_size=8), rows, 0
    )
    assert padded.micro_batch == (rows[0],) * 2


def test_a_row_above_the_budget_is_alone_in_its_micro_batch() -> None:
    rows = [RowLengths(n // 2, (n // 2,)) for n in (300, 30, 20)]
    packed = workload.build_workload(TrainingOptions(micro_batch_tokens=100, batch_size=8), rows, 0)
    assert packed.micro_batch == (rows[0],)


def test_prompts_and_completions_are_cut_to_the_limit() -> None:
    assert RowLengths(90, (30, 20)).truncated_to(100) == RowLengths(70, (30, 20))
    assert RowLengths(90, (130,)).truncated_to(100) == RowLengths(1, (100,))
    assert RowLengths(0, (130,)).truncated_to(100) == RowLengths(0, (100,))


def test_a_config_without_sizes_is_refused() -> None:
    from tunesmith.errors import UsageError

    with pytest.raises(UsageError, match="num_hidden_layers"):
        ModelShape.from_config({"hidden_size": 8, "num_attention_heads": 2, "vocab_size": 9})


def test_the_first_estimate_imports_nothing_heavy() -> None:
    code = """
import sys
from tunesmith.estimates import (Assumptions, EstimateRequest)
from tunesmith_plugins.techniques.lora.offer import LORA
from tunesmith_plugins.techniques.lora.options import LoraOptions
config = dict(hidden_size=8, num_hidden_layers=2, num_attention_heads=2, vocab_size=9)
request = EstimateRequest(config=config, tokenizer=None, train=(), test=(),
                          assumed=Assumptions(), device="cuda")
next(LORA.estimate(LoraOptions(), request)), LORA.memory_savings(LoraOptions())
print(sorted({"torch", "numpy", "transformers"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
