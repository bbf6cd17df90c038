"""The token budget of micro-batches: halved when memory runs out, and only then."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tunesmith.errors import TrainingError
from tunesmith.events import Event, FindingReported
from tunesmith_torch.training.micro_batch_budget import MAX_HALVINGS, MicroBatchBudget


def make_budget(tokens: int) -> tuple[MicroBatchBudget, list[Event]]:
    events: list[Event] = []
    job: Any = SimpleNamespace(emit=events.append)
    base = SimpleNamespace(model=SimpleNamespace(device=torch.device("cpu")))
    adapted: Any = SimpleNamespace(model=torch.nn.Linear(1, 1), base=base)
    return MicroBatchBudget(job, adapted, tokens), events


def fits(limit: int) -> Any:
    """A computation that needs its budget to be at most ``limit`` tokens."""

    def compute(tokens: int) -> int:
        if tokens > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return tokens

    return compute


def test_it_halves_until_the_computation_fits_and_stays_there() -> None:
    budget, events = make_budget(1024)
    assert budget.run(fits(300)) == 256
    assert budget.run(fits(10_000)) == 256
    assert [type(event) for event in events] == [FindingReported, FindingReported]


def test_it_gives_up_after_a_few_halvings() -> None:
    budget, events = make_budget(1024)
    budget.step = 6
    with pytest.raises(TrainingError, match="step 7: memory ran out with micro-batches of 128"):
        budget.run(fits(1))
    assert len(events) == MAX_HALVINGS


def test_other_errors_pass() -> None:
    budget, events = make_budget(1024)

    def compute(tokens: int) -> int:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        budget.run(compute)
    assert (budget.tokens, events) == (1024, [])
