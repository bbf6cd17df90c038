"""``parallel = "auto"``: chosen once for each number of processes, reported and recorded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.contracts import Job
from tunesmith.events import Event, FindingReported
from tunesmith.options import from_table
from tunesmith.records import Completion
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.memory_estimate.workload import SINGLE_COMPLETION
from tunesmith_torch.runtime import distributed
from tunesmith_torch.training import auto_batch
from tunesmith_torch.training.auto_parallel import PARALLEL_FILE, resolve_parallel

ROWS = [Completion(source=f"rows:{i}", prompt="what is it?", completion="this") for i in range(9)]
LARGE = {
    "model_type": "llama", "hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 16,
    "num_attention_heads": 16, "num_key_value_heads": 16, "vocab_size": 8192,
    "tie_word_embeddings": True, "max_position_embeddings": 512, "dtype": "float32",
}  # fmt: skip
"""0.28 billion weights: full training takes 16 bytes a weight, about 4.5 GiB."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(LARGE))
    return folder


@pytest.fixture
def events() -> list[Event]:
    return []


Start = Any


@pytest.fixture
def start(
    tmp_path: Path, model: Path, events: list[Event], monkeypatch: pytest.MonkeyPatch
) -> Start:
    """Begin or resume a training with so many processes and so many GiB for all of them."""

    def begin(processes: int, gib: float, parallel: str = "auto") -> str:
        monkeypatch.setattr(distributed, "world_size", lambda: processes)
        monkeypatch.setattr(auto_batch, "available_memory", lambda: round(gib * 2**30))
        options = {"parallel": parallel, "precision": "fp32", "micro_batch_tokens": 512}
        job: Job[Any] = Job(
            config=from_table(FullOptions, options),
            model=model,
            train=ROWS,
            validation=(),
            out=tmp_path,
            seed=0,
            device="cpu",
            checkpoints=Checkpoints(tmp_path / "checkpoints"),
            emit=events.append,
            technique="full",
        )
        chosen: str = resolve_parallel(
            job, lambda options, device: SINGLE_COMPLETION
        ).config.parallel
        return chosen

    return begin


def test_a_way_that_is_named_is_kept(start: Start, tmp_path: Path, events: list[Event]) -> None:
    assert [start(2, 1, "data"), start(2, 90, "sharded")] == ["data", "sharded"]
    assert not events and not (tmp_path / PARALLEL_FILE).exists()


def test_the_choice_is_reported_with_its_numbers(start: Start, events: list[Event]) -> None:
    assert start(2, 10) == "sharded"
    (finding,) = events
    assert isinstance(finding, FindingReported) and finding.source == "technique.parallel"
    assert finding.message.startswith('parallel = "auto" is "sharded": each of 2 processes needs')
    assert finding.message.endswith("5.0 GiB are available, 10 % of them kept free")


def test_a_resumed_training_keeps_the_choice_of_as_many_processes(start: Start) -> None:
    assert start(2, 10) == "sharded"
    assert start(2, 90) == "sharded"


def test_with_another_number_of_processes_it_is_chosen_again(start: Start, tmp_path: Path) -> None:
    ways = [start(2, 10), start(1, 10), start(4, 90), start(2, 90), start(4, 1)]
    assert ways == ["sharded", "data", "data", "sharded", "data"]
    stored = json.loads((tmp_path / PARALLEL_FILE).read_text())
    assert {number: choice["parallel"] for number, choice in stored.items()} == {
        "2": "sharded",
        "1": "data",
        "4": "data",
    }


def test_the_memory_of_other_machines_is_not_shared(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert start(2, 10) == "sharded"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert start(4, 10) == "sharded"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    assert start(3, 10) == "data"


def test_a_single_process_has_nothing_to_report(start: Start, events: list[Event]) -> None:
    assert start(1, 10) == "data" and not events
