"""The review of memory refuses or warns, and the measured peak is stored for calibration."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunesmith import api
from tunesmith.contracts import ReviewResult
from tunesmith.offers import TechniqueOffer
from tunesmith.plan import ModelReview
from tunesmith_cli.app import app
from tunesmith_plugins.estimate.review import review_memory
from tunesmith_python.runs import resume
from tunesmith_torch.runtime import machine
from tunesmith_torch.runtime.machine import Device, Machine

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "core"
PLUGINS = [str(CORE / "fake_plugin.py"), str(HERE / "memory_saving_plugin.py")]
MIB, GIB = 1 << 20, 1 << 30
RUN = """
[model]
base = "paper:plain@MODEL"
[data]
use = "lines"
train = "data.tsv"
test_size = 4
[technique]
use = "saving"
[[evaluators]]
use = "same"
"""
Tunesmith = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(sys, "path", [str(HERE), str(CORE), *sys.path])
    monkeypatch.setenv("TUNESMITH_CALIBRATION", "0")
    monkeypatch.setattr(machine, "peak_resident_memory", lambda: 0)
    has(monkeypatch, 4 * GIB)
    rows = [f"say {n}\tSAY {n}" for n in range(16)]
    (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "run.toml").write_text(RUN.replace("MODEL", str(tmp_path / "model")))
    return tmp_path


@pytest.fixture
def tunesmith(here: Path) -> Tunesmith:
    def call(*arguments: str) -> Result:
        plugins = [option for file in PLUGINS for option in ("--plugin", file)]
        for name in ("lora", "full", "qlora", "preference"):
            plugins += ["--no-plugin", name]
        return CliRunner().invoke(app, [*plugins, *arguments])

    return call


def has(monkeypatch: pytest.MonkeyPatch, memory: int | None) -> None:
    there = Machine(Device(type="cpu", name="test core", memory=memory, cores=2))
    monkeypatch.setattr(machine, "detect_machine", lambda: there)


def report_of(folder: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((Path(folder) / "report.json").read_text())
    return found


def test_a_run_that_fits_only_prints_its_forecast(tunesmith: Tunesmith) -> None:
    done = tunesmith("run", "run.toml", "--out", "out")
    assert done.exit_code == 0, done.output
    assert "forecast: peak memory 1.1 GiB" in done.stderr
    assert "memory may run out" not in done.stderr
    forecast = report_of("out")["forecast"]
    assert forecast["method"] == "analytic"  # it was clear from the first
    assert forecast["memory"]["low"] < forecast["memory"]["expected"]
    assert forecast["available"] == 4 * GIB and not forecast["refused"]
    assert forecast["actual"]["peak_memory_bytes"] == 1100 * MIB
    assert forecast["actual"]["within"] is True
    assert forecast["actual"]["seconds"] == pytest.approx(0.6)
    shown = tunesmith("report", "out")
    memory = "predicted peak memory: 766.8 MiB to 1.4 GiB; measured: 1.1 GiB, within"
    assert memory in shown.stdout and "predicted training time: " in shown.stdout


def test_additional_models_of_an_evaluator_are_part_of_the_forecast(tunesmith: Tunesmith) -> None:
    more = "--set", "evaluators.0.other_models=9"
    refused = tunesmith("run", "run.toml", "--out", "out", *more)
    assert refused.exit_code == 4 and "at least 9.8 GiB" in refused.stderr, refused.stderr
    assert tunesmith("run", "run.toml", "--out", "alone").exit_code == 0


def test_changes_that_do_not_suffice_together_are_named_as_such(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 40 * MIB)
    refused = tunesmith("run", "run.toml", "--out", "out")
    assert refused.exit_code == 4
    assert "would help, but are not enough even together:" in refused.stderr
    assert "technique.shards = 4 saves" in refused.stderr


def test_a_run_that_cannot_fit_is_refused_with_both_sizes_and_hints(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 400 * MIB)
    refused = tunesmith("run", "run.toml", "--out", "out")
    assert refused.exit_code == 4
    assert "needs at least 766.8 MiB" in refused.stderr and "400.0 MiB free" in refused.stderr
    assert "technique.gradient_checkpointing = true, technique.shards = 4 saves" in refused.stderr
    assert "--force" in refused.stderr
    assert not Path("out/checkpoints").exists()
    report = report_of("out")
    assert report["forecast"]["refused"] and report["run"]["exit_code"] == 4


def test_the_memory_of_ranks_is_that_of_each(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    review = review_of(here)
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "8")
    has(monkeypatch, 4 * GIB)
    (refusal,) = review_memory(review).findings
    assert refusal.level == "error"
    assert "each of 8 processes needs at least" in refusal.message
    assert "512.0 MiB free for each" in refusal.message
    assert refusal.if_forced is not None and "each of 8" in refusal.if_forced.message


def test_ranks_share_the_memory_of_their_own_machine_only(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = review_of(here)
    variables = {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "1"}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    has(monkeypatch, 4 * GIB)
    found = review_memory(review)
    assert not found.findings
    assert found.forecast is not None and found.forecast.available == 4 * GIB


def test_rank_0_evaluates_with_the_memory_of_all(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    review = review_of(here, "evaluators.0.other_models=2")  # 3000 MiB, and training 1100
    has(monkeypatch, 2 * GIB)
    assert [finding.level for finding in review_memory(review).findings] == ["error"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    has(monkeypatch, 4 * GIB)
    assert not review_memory(review).findings


def test_another_technique_that_would_fit_is_named(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 2 * GIB)
    refused = tunesmith("run", "run.toml", "--set", "technique.use=wide", "--out", "out")
    assert refused.exit_code == 4
    assert 'technique.use = "saving" needs about 1.1 GiB' in refused.stderr


def test_force_starts_the_run_with_a_warning(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 300 * MIB)
    done = tunesmith("run", "run.toml", "--out", "out", "--force")
    assert done.exit_code == 0, done.output
    assert "not enough memory, but the run was started with --force: needs at least" in done.stderr
    assert not report_of("out")["forecast"]["refused"]


def test_force_starts_a_refused_run_by_resume_too(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 300 * MIB)
    assert tunesmith("run", "run.toml", "--out", "out").exit_code == 4
    again = tunesmith("resume", "out")
    assert (
        again.exit_code == 4 and "`tunesmith resume --force` starts the run anyway" in again.stderr
    )
    done = tunesmith("resume", "out", "--force")
    assert done.exit_code == 0, done.output
    assert "not enough memory, but the run was started with --force: needs at least" in done.stderr
    assert not report_of("out")["forecast"]["refused"]


def test_force_starts_a_refused_run_from_python_too(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 300 * MIB)
    assert tunesmith("run", "run.toml", "--out", "out").exit_code == 4
    assert resume("out", force=True).report.status == "ok"


def test_only_an_undecided_run_is_traced_and_warned_about(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 1200 * MIB)  # above the traced high end, within the analytic interval
    clear = tunesmith("run", "run.toml", "--out", "clear")
    assert clear.exit_code == 0 and "memory may run out" not in clear.stderr
    assert report_of("clear")["forecast"]["method"] == "traced"
    has(monkeypatch, 1100 * MIB)  # within the traced one
    doubtful = tunesmith("run", "run.toml", "--out", "doubtful")
    assert doubtful.exit_code == 0
    assert "memory may run out: the run needs" in doubtful.stderr
    assert any("memory may run out" in n["message"] for n in report_of("doubtful")["findings"])


def test_where_memory_is_not_known_nothing_is_refused(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, None)
    assert tunesmith("run", "run.toml", "--out", "out").exit_code == 0
    assert report_of("out")["forecast"]["available"] is None


def test_an_estimate_that_fails_stops_no_run(tunesmith: Tunesmith) -> None:
    done = tunesmith("run", "run.toml", "--out", "out", "--set", "technique.use=failing")
    assert done.exit_code == 0, done.output
    assert "the memory of the run could not be predicted" in json.dumps(
        report_of("out")["findings"]
    )
    assert report_of("out")["forecast"] == {}


def test_a_run_is_checked_once_the_model_config_is_known(
    tunesmith: Tunesmith, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    late = f"model.base=paper:late@{here / 'model'}"
    assert tunesmith("run", "run.toml", "--set", late, "--out", "out").exit_code == 0
    assert report_of("out")["forecast"]["memory"]["expected"] > GIB
    has(monkeypatch, 300 * MIB)
    assert tunesmith("run", "run.toml", "--set", late, "--out", "too-large").exit_code == 4


def test_a_resumed_run_is_not_checked_again(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    stopped = tunesmith("run", "run.toml", "--out", "out", "--set", "technique.mode=interrupt")
    assert stopped.exit_code == 130
    before = report_of("out")["forecast"]
    has(monkeypatch, 10 * MIB)
    resumed = tunesmith("resume", "out")
    assert resumed.exit_code == 0, resumed.output
    after = report_of("out")["forecast"]
    assert {**after, "actual": {}} == before


def test_a_refused_run_is_checked_again_when_it_is_resumed(
    tunesmith: Tunesmith, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 300 * MIB)
    assert tunesmith("run", "run.toml", "--out", "out").exit_code == 4
    assert tunesmith("resume", "out").exit_code == 4
    has(monkeypatch, 4 * GIB)
    assert tunesmith("resume", "out").exit_code == 0


def test_the_review_takes_no_time(here: Path) -> None:
    """The common case: everything but what the estimate itself takes."""
    review = review_of(here)
    began = time.perf_counter()
    assert review_memory(review).forecast is not None
    assert time.perf_counter() - began < 0.3


def review_of(here: Path, *sets: str) -> ModelReview:
    """Return the run file, ready for its review."""
    plan, catalog = api.load_plan("run.toml", sets=sets, files=PLUGINS)
    return ModelReview(
        plan=plan,
        config=plan.found_model.config,
        train=(),
        test=(),
        techniques=catalog.offers(TechniqueOffer),
    )


def test_the_review_returns_what_a_forced_run_is_warned_of(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 400 * MIB)
    result = review_memory(review_of(here))
    (error,) = result.findings
    assert error.level == "error" and error.message.startswith("not enough memory: the run needs")
    assert error.if_forced is not None and error.if_forced.level == "warning"
    assert result.forecast is not None and result.forecast.technique == "saving"
    assert review_memory(review_of(here, "technique.use=by-heart")) == ReviewResult()


def test_a_price_file_that_cannot_be_read_ends_no_run(tunesmith: Tunesmith) -> None:
    prices = ("--set", "estimate.prices=nowhere.toml")
    assert tunesmith("run", "run.toml", "--out", "out", *prices).exit_code == 0
    assert "nowhere.toml" in json.dumps(report_of("out")["findings"])


# --------------------------------------------------------------------------- calibration


def seen(here: Path) -> list[dict[str, Any]]:
    path = here / "state" / "tunesmith" / "calibration.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture
def remembering(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    monkeypatch.delenv("TUNESMITH_CALIBRATION")


@pytest.mark.usefixtures("remembering")
def test_a_finished_run_calibrates_the_next_forecast(tunesmith: Tunesmith, here: Path) -> None:
    assert tunesmith("run", "run.toml", "--out", "one").exit_code == 0
    (line,) = seen(here)
    first = report_of("one")["forecast"]
    assert line["expected"] == first["uncalibrated_peak"] and line["peak"] == 1100 * MIB
    assert line["device"] == "test core, 2 cores" and line["seconds"] == pytest.approx(0.6)
    assert set(line) == {
        "time", "device", "technique", "method", "expected", "peak", "flops", "steps", "seconds",
        "parts", "cpu_share", "compute_bytes",
    }  # fmt: skip
    assert tunesmith("run", "run.toml", "--out", "two").exit_code == 0
    second = report_of("two")["forecast"]
    assert (
        second["uncalibrated_peak"] == first["uncalibrated_peak"]
        and second["calibration_runs"] == 1
    )
    assert second["memory"]["expected"] == pytest.approx(1100 * MIB, rel=0.01)
    assert second["actual"]["within"] is True
    shown = tunesmith("plan", "run.toml", "--quick")
    assert "corrected using 2 earlier runs" in shown.stdout


def test_calibration_can_be_switched_off(tunesmith: Tunesmith, here: Path) -> None:
    assert tunesmith("run", "run.toml", "--out", "one").exit_code == 0
    assert seen(here) == []


@pytest.mark.usefixtures("remembering")
def test_a_state_directory_that_cannot_be_written_stops_no_run(
    tunesmith: Tunesmith, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (here / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(here / "file"))
    assert tunesmith("run", "run.toml", "--out", "one").exit_code == 0


@pytest.mark.usefixtures("remembering")
def test_a_run_that_did_not_raise_the_peak_is_not_recorded(
    tunesmith: Tunesmith, here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "peak_resident_memory", lambda: 1099 * MIB)
    assert tunesmith("run", "run.toml", "--out", "one").exit_code == 0
    assert seen(here) == []


@pytest.mark.usefixtures("remembering")
def test_a_resumed_run_is_recorded_once_with_all_its_steps(
    tunesmith: Tunesmith, here: Path
) -> None:
    sets = ("--set", "technique.mode=interrupt")
    assert tunesmith("run", "run.toml", "--out", "out", *sets).exit_code == 130
    assert seen(here) == []
    assert tunesmith("resume", "out").exit_code == 0
    (line,) = seen(here)
    assert line["seconds"] == pytest.approx(0.6)


@pytest.mark.usefixtures("remembering")
def test_a_run_that_is_resumed_after_its_training_is_not_recorded_again(
    tunesmith: Tunesmith, here: Path
) -> None:
    gate = ("--set", "gate.at_least={same = 2.0}")
    assert tunesmith("run", "run.toml", "--out", "out", *gate).exit_code == 6
    assert len(seen(here)) == 1
    assert tunesmith("resume", "out").exit_code == 6
    assert len(seen(here)) == 1
