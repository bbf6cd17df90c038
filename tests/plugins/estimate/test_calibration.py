"""Calibration, fit, cost, and the table of hardware."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.estimates import Estimate, PhaseMemory
from tunesmith_plugins.estimate import calibration, hardware
from tunesmith_plugins.estimate.calibration import Calibration, CalibrationEntry
from tunesmith_plugins.estimate.memory_peak import MemoryPeak, check_fit
from tunesmith_plugins.estimate.request import estimate_cost, estimate_seconds
from tunesmith_torch.runtime.machine import Device

GIB = 1 << 30
DEVICE = Device(type="cpu", name="core", memory=GIB, cores=4)


def entry(ratio: float = 1.0, **changes: object) -> CalibrationEntry:
    values: dict[str, object] = dict(
        time="t", device=calibration.device_key(DEVICE), technique="x", method="traced",
        expected=1_000_000, peak=int(1_000_000 * ratio), flops=1e12, steps=10, seconds=10.0,
    )  # fmt: skip
    return CalibrationEntry(**{**values, **changes})  # type: ignore[arg-type]


STEP = Estimate(
    method="traced", memory={}, flops=1e11, steps=1, tokens=1, longest_row=1, micro_batch_tokens=1
)


def memory(expected: int = 1_000_000, share: float = 0.2) -> PhaseMemory:
    return PhaseMemory(
        low=int(expected * (1 - share)),
        expected=expected,
        high=int(expected * (1 + share)),
        components={"weights": expected - expected // 3, "rest": expected // 3},
    )


# --------------------------------------------------------------------------- corrections


def test_without_runs_nothing_is_corrected() -> None:
    assert Calibration().memory_correction("x", "traced", 1_000_000) is None
    assert Calibration().throughput("x", STEP) is None


@given(
    ratios=st.lists(st.floats(0.5, 1.9), min_size=1, max_size=60),
    share=st.floats(0.01, 0.9),
    expected=st.integers(1_000, 10**13),
)
@settings(max_examples=200, deadline=None)
def test_a_corrected_interval_contains_all_measured_peaks(
    ratios: list[float], share: float, expected: int
) -> None:
    correction = Calibration(tuple(map(entry, ratios))).memory_correction("x", "traced", 1_000_000)
    assert correction is not None
    before = memory(expected, share)
    after = correction.apply(before)
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
        correction = Calibration((entry(1.1),) * count).memory_correction("x", "traced", 1_000_000)
        assert correction is not None
        after = correction.apply(before)
        assert after.expected == pytest.approx(1_100_000, rel=1e-3)
        widths.append(after.high - after.low)
    assert widths[0] > widths[1] > widths[2] > 0.1 * 1_000_000


def test_one_outlier_among_many_runs_is_ignored() -> None:
    runs = (*map(entry, (1.0, 1.01, 0.99, 1.02)), entry(3.0))
    correction = Calibration(runs).memory_correction("x", "traced", 1_000_000)
    assert correction is not None
    assert correction.runs == 4 and correction.highest < 1.1


def test_implausible_ratios_are_ignored() -> None:
    assert (
        Calibration((entry(0.001), entry(30.0))).memory_correction("x", "traced", 1_000_000) is None
    )


def test_runs_of_another_size_are_ignored() -> None:
    runs = Calibration((entry(1.5, expected=400_000, peak=600_000), entry(1.1)))
    correction = runs.memory_correction("x", "traced", 1_000_000)
    assert correction is not None and (correction.runs, correction.ratio) == (1, 1.1)
    assert runs.memory_correction("x", "traced", 3_000_000) is None
    tiny = Calibration((entry(flops=1e9),) * 5)
    assert tiny.throughput("x", STEP) is None


def test_three_runs_of_the_same_technique_replace_all_others() -> None:
    others = (entry(2.0, technique="y"),) * 10
    assert (
        Calibration((*others, entry(), entry())).memory_correction("x", "traced", 1_000_000).ratio
        == 2.0
    )  # type: ignore[union-attr]
    assert (
        Calibration((*others, entry(), entry(), entry()))
        .memory_correction("x", "traced", 1_000_000)
        .ratio
        == 1.0
    )  # type: ignore[union-attr]


def test_only_predictions_of_the_same_method_are_compared() -> None:
    assert (
        Calibration((entry(method="analytic"),)).memory_correction("x", "traced", 1_000_000) is None
    )


def test_throughput_of_earlier_runs() -> None:
    runs = tuple(entry(flops=flops) for flops in (1e12, 1.1e12, 0.9e12))
    low, high = Calibration(runs).throughput("x", STEP) or (0.0, 0.0)
    assert low <= 0.9e11 and high >= 1.1e11
    assert low < median([0.9e11, 1e11, 1.1e11]) < high
    assert Calibration((entry(seconds=0.5),)).throughput("x", STEP) is None  # too short


def test_throughput_of_runs_whose_operations_were_counted_otherwise() -> None:
    """They say more about this machine than the table of processors does."""
    other = entry(method="analytic", seconds=40.0)
    assert Calibration((other,)).throughput("x", STEP) is not None
    own = Calibration((entry(),)).throughput("x", STEP)
    assert Calibration((other, entry())).throughput("x", STEP) == own


def test_runs_disturbed_by_other_programs_show_the_throughput_only_where_no_others_do() -> None:
    busy = tuple(entry(flops=1e11, cpu_share=0.3) for _ in range(4))
    low, high = Calibration((*busy, entry(cpu_share=0.95))).throughput("x", STEP) or (0.0, 0.0)
    assert low == pytest.approx(0.5e11) and high == pytest.approx(1.5e11)
    assert (Calibration(busy).throughput("x", STEP) or (0.0, 0.0))[1] < 0.2e11


def test_runs_in_another_precision_say_nothing_about_the_time() -> None:
    raw = (2.0, 32.0)
    runs = Calibration((entry(parts={"baselines": [10.0, 30.0]}, compute_bytes=4),))
    assert runs.throughput("x", replace(STEP, compute_bytes=2)) is None
    assert runs.correct_part("baselines", raw, replace(STEP, compute_bytes=2)) == raw
    assert runs.throughput("x", replace(STEP, compute_bytes=4)) is not None
    assert runs.correct_part("baselines", raw, replace(STEP, compute_bytes=4)) != raw


def test_parts_of_a_run_are_corrected_by_their_times_in_earlier_runs() -> None:
    raw = (2.0, 32.0)  # the middle is 8 s
    assert Calibration().correct_part("baselines", raw, STEP) == raw
    one = Calibration((entry(parts={"baselines": [10.0, 30.0]}),))
    assert one.correct_part("baselines", raw, STEP) == (8 * 1.5, 8 * 4.5)
    assert one.correct_part("evaluation", raw, STEP) == raw, "no run has this part"
    assert one.correct_part("baselines", (800.0, 900.0), STEP) == (800.0, 900.0), "far larger"
    larger = replace(STEP, flops=100 * STEP.flops)
    assert one.correct_part("baselines", raw, larger) == raw, "a tiny model only showed its imports"
    many = Calibration(tuple(entry(parts={"baselines": [10.0, 30.0 + n]}) for n in range(9)))
    low, high = many.correct_part("baselines", raw, STEP)
    assert 8 * 2 < low < 8 * 3.0 and 8 * 3.8 <= high < 36
    busy = entry(parts={"baselines": [10.0, 90.0]}, cpu_share=0.3)
    quiet = entry(parts={"baselines": [10.0, 30.0]}, cpu_share=0.95)
    mixed = Calibration((busy, busy, busy, quiet))
    assert mixed.correct_part("baselines", raw, STEP) == (8 * 1.5, 8 * 4.5), "others interfered"


def test_only_this_devices_runs_are_read(tmp_path: Path) -> None:
    environment = {"XDG_STATE_HOME": str(tmp_path)}
    assert calibration.read_calibration(DEVICE, environment).runs == ()
    calibration.append_entry(entry(), environment)
    calibration.append_entry(entry(device="another"), environment)
    path = calibration.calibration_file(environment)
    with path.open("a") as stream:
        stream.write('half a li\n{"time": 1}\n[]\nnull\n' + json.dumps({"a": 1}) + "\n")
        stream.write(json.dumps({**vars_of(entry()), "from a later version": 1}) + "\n")
    assert calibration.read_calibration(DEVICE, environment).runs == (entry(), entry())
    assert (
        calibration.read_calibration(DEVICE, {**environment, "TUNESMITH_CALIBRATION": "off"}).runs
        == ()
    )
    for _ in range(70):
        calibration.append_entry(entry(), environment)
    assert len(calibration.read_calibration(DEVICE, environment).runs) == calibration.MAX_ENTRIES


def vars_of(run: CalibrationEntry) -> dict[str, object]:
    return {name: getattr(run, name) for name in CalibrationEntry.__dataclass_fields__}


# --------------------------------------------------------------------------- fits, time, cost


def test_fit() -> None:
    peak = MemoryPeak(low=10, expected=15, high=20, phase="train")
    assert [check_fit(peak, size) for size in (9, 10, 19, 20)] == ["no", "maybe", "maybe", "yes"]
    assert (
        check_fit(peak, 5, 12) == "maybe"
        and check_fit(peak, 5, 9) == "no"
        and check_fit(peak, 20, 40) == "yes"
    )


def test_time_and_cost() -> None:
    time = estimate_seconds(7.2e15, (1e12, 2e12))
    assert time == (3600, 7200)
    assert estimate_cost(time, (1.0, 3.0)) == (1.0, 6.0)


# --------------------------------------------------------------------------- hardware


def test_the_packaged_table() -> None:
    table = hardware.load_hardware(environment={"XDG_CONFIG_HOME": "/nowhere"})
    assert list(table.gpu_classes()) == [24, 40, 48, 80, 141]
    for gpu in table.gpus:
        assert gpu.source and gpu.date and gpu.prices, gpu.name
        assert 0 < gpu.throughput[0] < gpu.throughput[1]
        assert 0.9 < gpu.usable / (gpu.gigabytes * GIB) < 1
        for price in gpu.prices:
            assert price.source and price.date >= "2026" and 0.1 < price.usd < 15
    oldest, newest = table.price_dates()
    assert oldest <= newest


@pytest.mark.parametrize(
    ("reported", "name"),
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
def test_gpus_are_found_by_their_driver_names(reported: str, name: str | None) -> None:
    found = hardware.load_hardware(environment={"XDG_CONFIG_HOME": "/nowhere"}).find_gpu(reported)
    assert (found.name if found else None) == name


def test_processors_by_their_flags() -> None:
    table = hardware.load_hardware(environment={"XDG_CONFIG_HOME": "/nowhere"})
    assert table.find_processor(frozenset({"avx2", "avx512_bf16"})).flag == "avx512_bf16"
    assert table.find_processor(frozenset({"avx2"})).flag == "avx2"
    assert table.find_processor(frozenset()).flag == ""
