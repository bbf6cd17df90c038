"""The arithmetic of planning: fits, corrections, hardware, this machine."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith import machine
from tunesmith.contracts import Estimate, Memory
from tunesmith.estimate import calibration, hardware
from tunesmith.estimate.ask import cost, seconds
from tunesmith.estimate.calibration import Calibration, Seen
from tunesmith.estimate.memory_peak import Peak, fit
from tunesmith.machine import Device, Machine

GIB = 1 << 30
DEVICE = Device(kind="cpu", name="core", memory=GIB, cores=4)


def seen(ratio: float = 1.0, **changes: object) -> Seen:
    values: dict[str, object] = dict(
        time="t", device=calibration.identity(DEVICE), technique="x", method="traced",
        expected=1_000_000, peak=int(1_000_000 * ratio), flops=1e12, steps=10, seconds=10.0,
    )  # fmt: skip
    return Seen(**{**values, **changes})  # type: ignore[arg-type]


STEP = Estimate(
    method="traced", memory={}, flops=1e11, steps=1, tokens=1, longest=1, micro_batch_tokens=1
)


def memory(expected: int = 1_000_000, share: float = 0.2) -> Memory:
    return Memory(
        low=int(expected * (1 - share)),
        expected=expected,
        high=int(expected * (1 + share)),
        components={"weights": expected - expected // 3, "rest": expected // 3},
    )


# --------------------------------------------------------------------------- corrections


def test_without_runs_nothing_is_corrected() -> None:
    assert Calibration().memory("x", "traced", 1_000_000) is None
    assert Calibration().throughput("x", STEP) is None


@given(
    ratios=st.lists(st.floats(0.5, 1.9), min_size=1, max_size=60),
    share=st.floats(0.01, 0.9),
    expected=st.integers(1_000, 10**13),
)
@settings(max_examples=200, deadline=None)
def test_a_corrected_interval_holds_all_that_counts(
    ratios: list[float], share: float, expected: int
) -> None:
    correction = Calibration(tuple(map(seen, ratios))).memory("x", "traced", 1_000_000)
    assert correction is not None
    before = memory(expected, share)
    after = correction.applied(before)
    assert 0 <= after.low <= after.expected <= after.high
    assert sum(after.components.values()) == after.expected
    assert correction.lowest <= correction.ratio <= correction.highest
    assert after.low <= expected * correction.lowest
    assert after.high >= expected * correction.highest
    assert after.expected == pytest.approx(expected * correction.ratio, rel=1e-3, abs=1)


def test_runs_that_agree_narrow_the_interval() -> None:
    before = memory(share=0.5)
    widths = []
    for count in (1, 4, 50):
        correction = Calibration((seen(1.1),) * count).memory("x", "traced", 1_000_000)
        assert correction is not None
        after = correction.applied(before)
        assert after.expected == pytest.approx(1_100_000, rel=1e-3)
        widths.append(after.high - after.low)
    assert widths[0] > widths[1] > widths[2] > 0.1 * 1_000_000


def test_one_strange_run_among_many_does_not_count() -> None:
    runs = (*map(seen, (1.0, 1.01, 0.99, 1.02)), seen(3.0))
    correction = Calibration(runs).memory("x", "traced", 1_000_000)
    assert correction is not None
    assert correction.runs == 4 and correction.highest < 1.1


def test_what_is_out_of_all_proportion_is_about_something_else() -> None:
    assert Calibration((seen(0.001), seen(30.0))).memory("x", "traced", 1_000_000) is None


def test_runs_of_another_size_say_nothing() -> None:
    runs = Calibration((seen(1.5, expected=400_000, peak=600_000), seen(1.1)))
    correction = runs.memory("x", "traced", 1_000_000)
    assert correction is not None and (correction.runs, correction.ratio) == (1, 1.1)
    assert runs.memory("x", "traced", 3_000_000) is None
    tiny = Calibration((seen(flops=1e9),) * 5)
    assert tiny.throughput("x", STEP) is None


def test_three_runs_of_ones_own_count_alone() -> None:
    others = (seen(2.0, technique="y"),) * 10
    assert Calibration((*others, seen(), seen())).memory("x", "traced", 1_000_000).ratio == 2.0  # type: ignore[union-attr]
    assert (
        Calibration((*others, seen(), seen(), seen())).memory("x", "traced", 1_000_000).ratio == 1.0
    )  # type: ignore[union-attr]


def test_predictions_are_compared_with_those_made_the_same_way() -> None:
    assert Calibration((seen(method="analytic"),)).memory("x", "traced", 1_000_000) is None


def test_pace_by_earlier_runs() -> None:
    runs = tuple(seen(flops=flops) for flops in (1e12, 1.1e12, 0.9e12))
    low, high = Calibration(runs).throughput("x", STEP) or (0.0, 0.0)
    assert low <= 0.9e11 and high >= 1.1e11
    assert low < median([0.9e11, 1e11, 1.1e11]) < high
    assert (
        Calibration((seen(seconds=0.5),)).throughput("x", STEP) is None
    )  # too short to say anything


def test_only_this_devices_runs_are_read(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    assert calibration.read(DEVICE, environment).runs == ()
    calibration.append(seen(), environment)
    calibration.append(seen(device="another"), environment)
    path = calibration.file(environment)
    with path.open("a") as stream:
        stream.write('half a li\n{"time": 1}\n[]\nnull\n' + json.dumps({"a": 1}) + "\n")
        stream.write(json.dumps({**vars_of(seen()), "from a later version": 1}) + "\n")
    assert calibration.read(DEVICE, environment).runs == (seen(), seen())
    assert calibration.read(DEVICE, {**environment, "TUNESMITH_CALIBRATION": "off"}).runs == ()
    for _ in range(70):
        calibration.append(seen(), environment)
    assert len(calibration.read(DEVICE, environment).runs) == calibration.REMEMBERED


def vars_of(run: Seen) -> dict[str, object]:
    return {name: getattr(run, name) for name in Seen.__dataclass_fields__}


# --------------------------------------------------------------------------- fits, time, cost


def test_fit() -> None:
    peak = Peak(low=10, expected=15, high=20, phase="train")
    assert [fit(peak, size) for size in (9, 10, 19, 20)] == ["no", "maybe", "maybe", "yes"]
    assert fit(peak, 5, 12) == "maybe" and fit(peak, 5, 9) == "no" and fit(peak, 20, 40) == "yes"


def test_time_and_cost() -> None:
    time = seconds(7.2e15, (1e12, 2e12))
    assert time == (3600, 7200)
    assert cost(time, (1.0, 3.0)) == (1.0, 6.0)


# --------------------------------------------------------------------------- hardware


def test_the_packaged_table() -> None:
    table = hardware.load(environment={"XDG_CONFIG_HOME": "/nowhere"})
    assert list(table.classes()) == [24, 40, 48, 80, 141]
    for gpu in table.gpus:
        assert gpu.source and gpu.date and gpu.prices, gpu.name
        assert 0 < gpu.throughput[0] < gpu.throughput[1]
        assert 0.9 < gpu.usable / (gpu.gigabytes * GIB) < 1
        for price in gpu.prices:
            assert price.source and price.date >= "2026" and 0.1 < price.usd < 15
    oldest, newest = table.dates()
    assert oldest <= newest


@pytest.mark.parametrize(
    ("said", "name"),
    [
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA A10G", "A10"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H200", "H200"),
        ("NVIDIA RTX A6000", "RTX A6000"),
        ("Tesla T4", None),
    ],
)
def test_gpus_are_known_by_their_drivers_names(said: str, name: str | None) -> None:
    found = hardware.load(environment={"XDG_CONFIG_HOME": "/nowhere"}).named(said)
    assert (found.name if found else None) == name


def test_processors_by_their_flags() -> None:
    table = hardware.load(environment={"XDG_CONFIG_HOME": "/nowhere"})
    assert table.core(frozenset({"avx2", "avx512_bf16"})).flag == "avx512_bf16"
    assert table.core(frozenset({"avx2"})).flag == "avx2"
    assert table.core(frozenset()).flag == ""


# --------------------------------------------------------------------------- this machine


def put(root: Path, name: str, text: str) -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_a_control_group_may_allow_less(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemTotal: 99 kB\nMemAvailable: 8388608 kB\n")
    assert machine.available_memory(tmp_path) == 8 * GIB
    put(tmp_path, "proc/self/cgroup", "0::/a/b\n")
    assert machine.available_memory(tmp_path) == 8 * GIB
    group = "sys/fs/cgroup/a"
    put(tmp_path, f"{group}/memory.max", f"{4 * GIB}\n")
    put(tmp_path, f"{group}/memory.current", f"{3 * GIB}\n")
    put(tmp_path, f"{group}/memory.stat", f"anon 1\ninactive_file {GIB}\n")
    assert machine.available_memory(tmp_path) == 2 * GIB  # file cache can go
    put(tmp_path, f"{group}/memory.max", "max\n")
    assert machine.available_memory(tmp_path) == 8 * GIB


def test_old_control_groups_too(tmp_path: Path) -> None:
    put(tmp_path, "proc/meminfo", "MemAvailable: 8388608 kB\n")
    put(tmp_path, "proc/self/cgroup", "11:cpuset:/x\n4:memory:/box\n")
    group = "sys/fs/cgroup/memory/box"
    put(tmp_path, f"{group}/memory.limit_in_bytes", str(GIB))
    put(tmp_path, f"{group}/memory.usage_in_bytes", str(GIB // 2))
    put(tmp_path, f"{group}/memory.stat", "total_inactive_file 0\n")
    assert machine.available_memory(tmp_path) == GIB // 2


def test_nothing_is_claimed_where_nothing_is_known(tmp_path: Path) -> None:
    assert machine.available_memory(tmp_path) is None


def with_tool(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tool = folder / "nvidia-smi"
    tool.write_text(f"#!/bin/sh\n{text}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    monkeypatch.setattr(machine, "_torch_knows_gpus", lambda: True)


def test_a_gpu_is_what_its_tool_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = "echo 'NVIDIA H100, 81559, 80000'; echo 'NVIDIA L4, 23034, 22000'"
    with_tool(tmp_path, rows, monkeypatch)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    gpu = machine.this_machine().gpu
    assert gpu is not None
    assert (gpu.name, gpu.memory) == ("NVIDIA H100", 80000 << 20)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert machine.this_machine().gpu.name == "NVIDIA L4"  # type: ignore[union-attr]
    for hidden in ("", "-1", "7"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
        assert machine.this_machine().gpu is None


@pytest.mark.parametrize("text", ["exit 9", "echo nonsense", "echo 'X, [N/A], [N/A]'", "true"])
def test_a_tool_that_fails_is_no_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    with_tool(tmp_path, text, monkeypatch)
    assert machine.this_machine().gpu is None


def test_a_torch_without_gpus_has_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_tool(tmp_path, "echo 'NVIDIA H100, 81559, 80000'", monkeypatch)
    monkeypatch.setattr(machine, "_torch_knows_gpus", lambda: False)
    assert machine.this_machine().gpu is None


def test_what_the_run_file_means_by_device() -> None:
    gpu = Device(kind="cuda", name="gpu", memory=1)
    both, alone = Machine(DEVICE, gpu), Machine(DEVICE)
    assert [both.device(d).kind for d in ("auto", "cuda:1", "cpu", "mps")] == [
        "cuda", "cuda", "cpu", "cpu",
    ]  # fmt: skip
    assert [alone.device(d).kind for d in ("auto", "cuda", "cpu")] == ["cpu", "cpu", "cpu"]
