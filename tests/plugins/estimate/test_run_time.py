"""The predicted times of the parts of a run."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.catalog import Catalog
from tunesmith.config import run_file
from tunesmith.config.read_plan import make_plan
from tunesmith.estimates import Estimate
from tunesmith.execution.run_data import load_data
from tunesmith.plan import ModelReview
from tunesmith.plugins import Selection, find_plugins
from tunesmith_plugins.estimate import run_time
from tunesmith_plugins.estimate.calibration import Calibration, CalibrationEntry, device_key
from tunesmith_plugins.estimate.run_time import ForwardSpeed, RunTime, predict_run_time
from tunesmith_torch.memory_estimate.speed import Speed
from tunesmith_torch.runtime.machine import Device

DEVICE = Device(type="cpu", name="core", memory=None, cores=2)
ESTIMATE = Estimate(
    method="traced", memory={}, flops=3e9, steps=10, tokens=1000, longest_row=9,
    micro_batch_tokens=9,
)  # fmt: skip
LISTED = ForwardSpeed((1e6, 4e6))
NO_RUNS = Calibration()


def review(folder: Path, **tables: Any) -> ModelReview:
    lines = [f'{{"prompt": "Where is {n}?", "completion": "room {n % 7}"}}\n' for n in range(200)]
    (folder / "rows.jsonl").write_text("".join(lines))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    defaults: dict[str, Any] = {
        "model": {"base": str(folder)},
        "data": {"use": "jsonl", "train": "rows.jsonl", "test_size": 40},
        "technique": {"use": "lora"},
        "evaluators": [{"use": "exact-match"}],
    }
    file = run_file.RunFile(tables={**defaults, **tables}, folder=folder, stem="x")
    plan = make_plan(file, Catalog(find_plugins(Selection(allowed=frozenset()))))
    _, parts = load_data(plan)
    return ModelReview(plan=plan, config={}, train=parts.train, test=parts.test, techniques=())


@pytest.fixture(autouse=True)
def idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time.os, "getloadavg", lambda: (1.0, 1.0, 1.0))


def predict(folder: Path, calibration: Calibration = NO_RUNS, **tables: Any) -> RunTime:
    training = (10.0, 20.0)
    args = (ESTIMATE, training, LISTED, calibration, DEVICE)
    return predict_run_time(review(folder, **tables), *args)


def test_the_parts_are_in_order_with_ranges(tmp_path: Path) -> None:
    found = predict(tmp_path)
    assert list(found.parts) == ["baselines", "training", "evaluation"]
    assert all(0 <= low < high for low, high in found.parts.values())
    assert found.parts["training"] == (11.0 - run_time.OVERHEAD, 35.0 + run_time.OVERHEAD)
    assert set(found.uncalibrated) == {"baselines", "evaluation"}


def test_more_work_takes_longer(tmp_path: Path) -> None:
    base = predict(tmp_path).parts
    long = predict(tmp_path, evaluators=[{"use": "loss"}]).parts
    assert long["evaluation"][1] < base["evaluation"][1], "generated tokens take longest"
    none = predict(tmp_path, baselines={"use": []}).parts
    assert list(none) == ["training", "evaluation"]
    one = predict(tmp_path, baselines={"use": ["zero-shot"]}).parts
    assert one["baselines"][1] < base["baselines"][1]


def test_tokens_are_counted_with_the_tokenizer_of_the_model(
    tmp_path: Path, tiny_folder: Path
) -> None:
    """The tiny tokenizer needs more tokens for these rows than their characters suggest."""
    guessed = predict(tmp_path).parts["evaluation"]
    for file in tiny_folder.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    counted = predict(tmp_path).parts["evaluation"]
    constant = run_time.LOADING[1] + run_time.OVERHEAD
    assert counted[1] - constant > 1.2 * (guessed[1] - constant)


def test_a_busy_processor_makes_all_parts_longer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    idle = predict(tmp_path).parts
    monkeypatch.setattr(run_time.os, "getloadavg", lambda: (7.0, 1.0, 1.0))
    busy = predict(tmp_path).parts
    assert busy["training"] == pytest.approx((11 * 2 - 3, 35 * 4 + 3)), "6 others on 2 cores"
    for part, (_, high) in idle.items():
        assert busy[part][1] == pytest.approx((high - 3) * 4 + 3)


def test_earlier_runs_on_this_device_narrow_the_range(tmp_path: Path) -> None:
    raw = predict(tmp_path)
    entry = CalibrationEntry(
        time="t", device=device_key(DEVICE), technique="lora", method="traced", expected=1, peak=1,
        flops=3e9, steps=10, seconds=15.0,
        parts={part: [middle, 2 * middle] for part, middle in raw.uncalibrated.items()},
    )  # fmt: skip
    found = predict(tmp_path, Calibration((entry, replace(entry))))
    for part, middle in raw.uncalibrated.items():
        low, high = found.parts[part]
        assert low <= 2 * middle <= high
        assert high - low < raw.parts[part][1] - raw.parts[part][0]


def test_a_measured_speed_replaces_the_table_and_the_load_for_the_first_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The layer was measured beside the other programs, so their load is not counted twice."""
    listed = predict(tmp_path)
    speed = ForwardSpeed.from_measured(Speed(training=3e6, forward=2e6, generated_token=10.0))
    args = (review(tmp_path), ESTIMATE, (10.0, 20.0), LISTED)
    first = predict_run_time(*args, NO_RUNS, DEVICE, speed)
    monkeypatch.setattr(run_time.os, "getloadavg", lambda: (7.0, 1.0, 1.0))
    assert predict_run_time(*args, NO_RUNS, DEVICE, speed).parts == first.parts
    assert first.uncalibrated == listed.uncalibrated, "calibration corrects the table"
    low, high = first.parts["evaluation"]
    wide = listed.parts["evaluation"]
    assert wide[0] < low < high < wide[1]

    entry = CalibrationEntry(
        time="t", device=device_key(DEVICE), technique="lora", method="traced", expected=1, peak=1,
        flops=3e9, steps=10, seconds=15.0,
        parts={part: [middle, 2 * middle] for part, middle in listed.uncalibrated.items()},
    )  # fmt: skip
    known = Calibration((entry,))
    later = predict_run_time(*args, known, DEVICE, speed)
    assert later.parts == predict_run_time(*args, known, DEVICE).parts


def test_without_a_known_speed_only_the_training_can_be_predicted(tmp_path: Path) -> None:
    arguments = (ESTIMATE, (10.0, 20.0), None, Calibration(), DEVICE)
    assert list(predict_run_time(review(tmp_path), *arguments).parts) == ["training"]
    arguments = (ESTIMATE, None, None, Calibration(), DEVICE)
    assert predict_run_time(review(tmp_path), *arguments).parts == {}
