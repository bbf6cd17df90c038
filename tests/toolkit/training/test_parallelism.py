"""A single process needs no parallelism; models that cannot be sharded are refused."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tunesmith.errors import TrainingError, UsageError
from tunesmith_torch.models.adapter_stack import adapt_model
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.models.open_base import load_model
from tunesmith_torch.options.adaptation import Adaptation
from tunesmith_torch.runtime import distributed
from tunesmith_torch.runtime.device import pick_precision
from tunesmith_torch.runtime.distributed import ProcessGroup
from tunesmith_torch.training import parallelism
from tunesmith_torch.training.parallelism import ShardedParallelism, parallelize

CPU = torch.device("cpu")


class Ranks(ProcessGroup):
    """This rank beside one with ``other`` micro-batches, and the same weights."""

    def __init__(self, other: Any = None) -> None:
        super().__init__(0, 2)
        self.other = other

    def exchange(self, message: dict[str, Any]) -> list[Any]:
        value = message["value"]
        return [value, value if self.other is None else self.other]


@pytest.fixture
def adapted(tiny_folder: Path) -> AdaptedModel:
    precision = pick_precision(CPU, "fp32")
    base = load_model(tiny_folder, CPU, precision, packing=True)
    return adapt_model(base, precision, Adaptation("full"), initial_model=None, seed=0)


def loss(micro_batch: Any) -> Tensor:
    return torch.tensor(float(micro_batch))


def test_a_single_process_computes_its_own_loss(adapted: AdaptedModel) -> None:
    with parallelize(adapted, loss, "sharded") as found:
        micro_batches: Sequence[Any] = [1, 2]
        assert found.align(micro_batches) is micro_batches
        assert found.loss is loss


def test_all_ranks_run_the_same_number_of_passes() -> None:
    sharded = ShardedParallelism(loss)
    for own, other, expected in (([5], 3, [5, None, None]), ([5, 6], 1, [5, 6]), ([], 1, [None])):
        with distributed.join_group(Ranks(other)):
            assert sharded.align(own) == expected


def test_out_of_memory_ends_a_step_that_cannot_be_repeated() -> None:
    group = Ranks()
    with (
        pytest.raises(TrainingError, match="memory ran out in a step with sharded weights"),
        distributed.join_group(group),
        ShardedParallelism(loss).collectives(),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory")
    assert group.has_left and group.closed


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda model: setattr(model, "_no_split_modules", None), "does not name its layers"),
        (None, "long rows need separate passes"),
    ],
)
def test_models_that_cannot_be_sharded_are_refused(
    adapted: AdaptedModel, monkeypatch: pytest.MonkeyPatch, change: Any, reason: str
) -> None:
    if change is not None:
        change(adapted.base.model)
    else:
        classes = SimpleNamespace(thresholds=(4096,))
        monkeypatch.setattr(parallelism, "length_classes", lambda decoder: classes)
    with (
        pytest.raises(UsageError, match=reason) as caught,
        distributed.join_group(Ranks()),
        parallelize(adapted, loss, "sharded"),
    ):
        pass
    assert caught.value.hint == 'set technique.parallel = "data"'


def test_the_layers_of_a_model_are_its_blocks(adapted: AdaptedModel) -> None:
    layers = adapted.base.model.get_decoder().layers
    assert isinstance(layers, nn.ModuleList)
    assert parallelism._find_blocks(adapted) == list(layers)
