"""``batch_size = "auto"``: chosen from free memory, reported, and kept when resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from tunesmith.contracts import Job
from tunesmith.estimates import EstimateRequest
from tunesmith.events import Event, FindingReported
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.lora.options import LoraOptions
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION
from tunesmith_torch.options.training import AUTO, TrainingOptions
from tunesmith_torch.training import auto_batch

ROWS = [
    Completion(source=f"rows:{i}", prompt="what is it?" * 20, completion=f"it is {i}")
    for i in range(40)
]


def _job(folder: Path, model: Path, events: list[Event], **options: Any) -> Job[Any]:
    return Job(
        config=from_table(LoraOptions, options),
        model=model,
        train=ROWS,
        validation=(),
        out=folder,
        seed=0,
        device="cpu",
        checkpoints=Checkpoints(folder / "checkpoints"),
        emit=events.append,
        technique="lora",
    )


def resolve_auto(job: Job[Any]) -> Job[Any]:
    return auto_batch.resolve_auto(job, lambda options, device: SINGLE_COMPLETION)


def choose_batch(
    options: TrainingOptions, request: EstimateRequest, free: int | None
) -> dict[str, int]:
    return auto_batch.choose_batch(options, request, free, SINGLE_COMPLETION)


def test_auto_is_a_word_in_files_and_a_number_in_the_options() -> None:
    table = {"batch_size": "auto", "micro_batch_tokens": "auto", "gradient_checkpointing": "auto"}
    options = from_table(TrainingOptions, table)
    assert (options.batch_size, options.micro_batch_tokens, options.gradient_checkpointing) == (
        AUTO,
        AUTO,
        None,
    )
    dumped = options.model_dump(mode="json")
    assert {key: dumped[key] for key in table} == table
    assert from_table(TrainingOptions, dumped) == options
    assert TrainingOptions().model_dump(mode="json")["batch_size"] == 16


@pytest.mark.parametrize("wrong", [0, -1, "many", 1.5, True])
def test_other_words_and_numbers_are_refused(wrong: object) -> None:
    with pytest.raises(ValidationError):
        from_table(TrainingOptions, {"batch_size": wrong})


def test_numbers_are_not_changed(tmp_path: Path, tiny_folder: Path) -> None:
    events: list[Event] = []
    job = _job(tmp_path, tiny_folder, events, batch_size=4)
    assert resolve_auto(job) is job
    assert not events and not list(tmp_path.iterdir())


def test_the_choice_is_reported_and_kept_by_a_resumed_run(
    tmp_path: Path, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[Event] = []
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 20 * 2**30)
    first = resolve_auto(_job(tmp_path, tiny_folder, events, batch_size="auto")).config
    assert first.batch_size == 16 and first.micro_batch_tokens in auto_batch.TOKEN_CANDIDATES
    findings = [event for event in events if isinstance(event, FindingReported)]
    assert f"up to {first.micro_batch_tokens} tokens" in findings[0].message
    monkeypatch.setattr(auto_batch, "available_memory", lambda: 2**20)
    resumed = resolve_auto(_job(tmp_path, tiny_folder, events, batch_size="auto")).config
    assert resumed == first
    other_run = tmp_path / "other"
    other_run.mkdir()
    other = resolve_auto(_job(other_run, tiny_folder, events, batch_size="auto")).config
    assert other.micro_batch_tokens == auto_batch.TOKEN_CANDIDATES[-1] < first.micro_batch_tokens


def _long_rows() -> EstimateRequest:
    """Return a request for a model of a billion weights, rows of 1500 words, and a GPU."""
    config = {
        "model_type": "llama", "hidden_size": 2048, "intermediate_size": 8192,
        "num_hidden_layers": 16, "num_attention_heads": 32, "num_key_value_heads": 8,
        "vocab_size": 128256, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }  # fmt: skip
    long = [Completion(source=f"r:{i}", prompt="word " * 1500, completion="x") for i in range(64)]
    return EstimateRequest(
        config=config, tokenizer=None, train=long, test=(), assumed=None, device="cuda"
    )


def test_more_memory_never_means_fewer_tokens() -> None:
    request = _long_rows()
    options = from_table(LoraOptions, {"micro_batch_tokens": "auto", "batch_size": 32})
    chosen = [
        choose_batch(options, request, gib * 2**30)["micro_batch_tokens"]
        for gib in (4, 8, 16, 24, 80)
    ]
    assert chosen == sorted(chosen)
    assert chosen[0] == auto_batch.TOKEN_CANDIDATES[-1] and chosen[-1] > chosen[0]
    assert (
        choose_batch(options, request, None)["micro_batch_tokens"]
        == auto_batch.TOKEN_CANDIDATES[-1]
    )


def test_gradient_checkpointing_is_chosen_only_if_nothing_else_fits() -> None:
    request = _long_rows()
    options = from_table(
        LoraOptions, {"gradient_checkpointing": "auto", "micro_batch_tokens": "auto"}
    )
    chosen = {gib: choose_batch(options, request, gib * 2**30) for gib in (5, 6, 7, 8, 12, 80)}
    assert [chosen[gib]["gradient_checkpointing"] for gib in (5, 80)] == [True, False]
    tokens = [c["micro_batch_tokens"] for c in chosen.values() if not c["gradient_checkpointing"]]
    assert tokens == sorted(tokens)
    fixed = from_table(LoraOptions, {"gradient_checkpointing": "auto", "micro_batch_tokens": 2048})
    for gib in (5, 80):
        chosen_values = choose_batch(fixed, request, gib * 2**30)
        assert chosen_values == {
            "batch_size": 16,
            "micro_batch_tokens": 2048,
            "gradient_checkpointing": gib == 5,
        }
    assert choose_batch(fixed, request, None)["gradient_checkpointing"]
    never = from_table(LoraOptions, {"gradient_checkpointing": False, "micro_batch_tokens": "auto"})
    assert not choose_batch(never, request, 2**30)["gradient_checkpointing"]


def test_the_estimate_of_auto_starts_at_the_smallest_choice() -> None:
    from tunesmith_torch.memory_estimate import techniques

    config = {
        "model_type": "llama", "hidden_size": 512, "intermediate_size": 2048,
        "num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8,
        "vocab_size": 1024, "tie_word_embeddings": True, "max_position_embeddings": 8192,
    }  # fmt: skip
    rows = [Completion(source="r", prompt="word " * 90, completion="x " * 20)] * 200
    request = EstimateRequest(
        config=config, tokenizer=None, train=rows, test=rows, assumed=None, device="cuda"
    )
    auto_estimates, smallest_estimates, *usual = (
        list(techniques.estimate_supervised(from_table(LoraOptions, table), request))
        for table in (
            {"gradient_checkpointing": "auto", "micro_batch_tokens": "auto"},
            {"gradient_checkpointing": True, "micro_batch_tokens": 512},
            {},
            {"micro_batch_tokens": 2048, "gradient_checkpointing": False},
        )
    )
    for usual_estimates in usual:
        for phase in ("load", "train", "evaluate"):
            assert auto_estimates[0].memory[phase].low == smallest_estimates[0].memory[phase].low
            assert auto_estimates[1].memory[phase].low <= usual_estimates[1].memory[phase].low
        assert auto_estimates[1].memory["train"].low < usual_estimates[1].memory["train"].low
