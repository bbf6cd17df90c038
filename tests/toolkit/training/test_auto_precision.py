"""``precision = "auto"``: chosen once, from the processor and the model's size, and recorded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from tunesmith.contracts import Job
from tunesmith.options import from_table
from tunesmith.storage import Checkpoints
from tunesmith_plugins.techniques.full.options import FullOptions
from tunesmith_torch.runtime import device
from tunesmith_torch.runtime.device import Precision
from tunesmith_torch.runtime.machine import MIN_BF16_HIDDEN_SIZE
from tunesmith_torch.training.auto_precision import PRECISION_FILE, resolve_precision

LARGE, SMALL = MIN_BF16_HIDDEN_SIZE, MIN_BF16_HIDDEN_SIZE - 1

Start = Callable[..., Precision]


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Begin or resume a training on a processor with or without bf16 arithmetic."""

    def begin(hidden_size: int | None, precision: str = "auto", *, has_bf16: bool) -> Precision:
        flags = frozenset({"amx_bf16"} if has_bf16 else {"avx2"})
        monkeypatch.setattr(device, "read_processor_flags", lambda: flags)
        job: Job[Any] = Job(
            config=from_table(FullOptions, {"precision": precision}),
            model=tmp_path,
            train=(),
            validation=(),
            out=tmp_path,
            seed=0,
            device="cpu",
            checkpoints=Checkpoints(tmp_path / "checkpoints"),
            emit=lambda event: None,
            technique="full",
        )
        return resolve_precision(job, torch.device("cpu"), hidden_size)

    return begin


def test_only_large_models_use_bf16_where_it_is_faster(start: Start, tmp_path: Path) -> None:
    found = {}
    for hidden_size in (SMALL, LARGE, None):
        for has_bf16 in (False, True):
            found[hidden_size, has_bf16] = start(hidden_size, has_bf16=has_bf16).name
            (tmp_path / PRECISION_FILE).unlink()
    assert {case for case, name in found.items() if name == "bfloat16"} == {
        (LARGE, True),
        (None, True),
    }


def test_the_choice_is_recorded_with_its_reason(start: Start, tmp_path: Path) -> None:
    assert f"hidden size {SMALL} is too small" in start(SMALL, has_bf16=True).reason
    stored = json.loads((tmp_path / PRECISION_FILE).read_text())
    assert stored["precision"] == "fp32" and f"hidden size {SMALL}" in stored["reason"]


@pytest.mark.parametrize("has_bf16", [False, True])
def test_a_resumed_training_keeps_it_on_another_processor(start: Start, has_bf16: bool) -> None:
    first = start(LARGE, has_bf16=has_bf16)
    assert start(LARGE, has_bf16=not has_bf16) == first


def test_a_precision_that_is_set_is_used_and_not_recorded(start: Start, tmp_path: Path) -> None:
    assert start(SMALL, "bf16", has_bf16=False).dtype == torch.bfloat16
    assert start(LARGE, "fp32", has_bf16=True).dtype == torch.float32
    assert not (tmp_path / PRECISION_FILE).exists()
