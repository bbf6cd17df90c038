"""Warnings where a request is below the prediction."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tunesmith import api
from tunesmith.options import from_table
from tunesmith_slurm.options import SlurmOptions
from tunesmith_slurm.prediction import check_memory, check_time, find_gpus, list_warnings

GIB = 1 << 30
GPUS = [("L4", 22), ("A100 40GB", 38), ("A100 80GB", 77), ("H100", 77)]
ESTIMATE: dict[str, Any] = {
    "technique": "lora",
    "peak": {"lora": {"low": 4 * GIB, "expected": 6 * GIB, "high": 9 * GIB}},
    "gpus": [{"name": name, "usable": size * GIB} for name, size in GPUS],
    "time": {
        "lora": {
            "L4": {"low": 40_000.0, "high": 90_000.0},
            "A100 80GB": {"low": 8_000.0, "high": 20_000.0},
            "H100": {"low": 4_000.0, "high": 9_000.0},
            "this machine": {"low": 400_000.0, "high": 900_000.0},
        }
    },
}


def options(**table: Any) -> SlurmOptions:
    return from_table(SlurmOptions, table)


def memory_warnings(estimate: dict[str, Any] = ESTIMATE, **table: Any) -> list[str]:
    return list(check_memory(options(**table), estimate))


def time_warnings(**table: Any) -> list[str]:
    return list(check_time(options(**table), ESTIMATE))


def test_main_memory_is_compared_without_a_gpu() -> None:
    (warning,) = memory_warnings(mem="5G")
    assert (
        "mem = 5G is below the prediction: the run needs about 6.0 GiB (at most 9.0 GiB)" in warning
    )
    assert not memory_warnings(mem="6G") and not memory_warnings()
    (warning,) = memory_warnings(mem="10G", processes=2)
    assert "2 processes need about 12.0 GiB" in warning


def test_the_memory_of_the_gpu_is_compared_if_its_type_is_known() -> None:
    large = {**ESTIMATE, "peak": {"lora": {"low": 0, "expected": 50 * GIB, "high": 60 * GIB}}}
    (warning,) = memory_warnings(large, gpus="l4:2")
    assert "gpus = l4:2" in warning and "50.0 GiB per GPU" in warning
    assert not memory_warnings(large, gpus="a100:1")  # there is one with 80 GB
    assert not memory_warnings(large, gpus=1) and not memory_warnings(large, gpus="mi300:1")
    assert not memory_warnings(large, gpus="h100:1", mem="8G")  # main memory is not predicted then


def test_the_memory_of_shards_is_that_of_the_job_with_its_processes(
    tiny_model: Path, tmp_path: Path
) -> None:
    from tunesmith_torch.testing.tiny_project import write_project

    model = tmp_path / "large"
    shutil.copytree(tiny_model, model)
    (model / "model.safetensors").unlink()
    config = json.loads((model / "config.json").read_text("utf-8"))
    config |= {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32}
    config |= {"num_attention_heads": 32, "num_key_value_heads": 32, "head_dim": 128}
    (model / "config.json").write_text(json.dumps(config), encoding="utf-8")
    run_file = write_project(tmp_path, model)
    for parallel, count in (("data", 1), ("sharded", 0)):  # all moments, or a quarter of them
        sets = {"technique.use": "full", "technique.parallel": parallel}
        plan, _ = api.load_plan(run_file, sets=sets)
        assert len(list_warnings(plan, options(gpus="h100:4"))) == count, parallel


def test_time_is_compared_with_the_fastest_gpu_it_may_get() -> None:
    (warning,) = time_warnings(gpus=1, time=60, grace_seconds=600)
    assert "time = 60 is below the prediction" in warning
    assert "requeued at least 1 times" in warning  # 4,000 seconds in pieces of 3,000
    assert not time_warnings(gpus=1, time=120) and not time_warnings(gpus=1)
    assert not time_warnings(gpus=2, time=60)  # two of them take half the time
    assert time_warnings(gpus="l4:1", time=120)
    (warning,) = time_warnings(gpus=1, time=60, max_requeues=0)
    assert "max_requeues is 0" in warning
    assert not time_warnings(gpus="mi300:1", time=3)
    assert time_warnings(time=120) and not time_warnings(time=10_000)


@pytest.mark.parametrize(
    ("kind", "names"),
    [
        ("", ["L4", "A100 40GB", "A100 80GB", "H100"]),
        ("a100:", ["A100 40GB", "A100 80GB"]),
        ("nvidia_a100-sxm:", ["A100 40GB", "A100 80GB"]),
        ("H100:", ["H100"]),
        ("mi300:", []),
    ],
)
def test_types_are_found_by_their_words(kind: str, names: list[str]) -> None:
    found = find_gpus(options(gpus=f"{kind}1"), ESTIMATE)
    assert [gpu["name"] for gpu in found] == names
