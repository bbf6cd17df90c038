"""``tunesmith plan``: estimates, comparisons, costs, savings, and their output."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tunesmith_cli.app import app
from tunesmith_plugins.estimate import run_time
from tunesmith_torch.runtime import machine
from tunesmith_torch.runtime.machine import Device, Machine

HERE = Path(__file__).parent
CORE = HERE.parents[1] / "core"
PLUGINS = [str(CORE / "fake_plugin.py"), str(HERE / "memory_saving_plugin.py")]
MIB, GIB = 1 << 20, 1 << 30
RUN = """
[model]
base = "paper:plain"
[data]
use = "lines"
train = "data.tsv"
[technique]
use = "saving"
"""
Plan = Callable[..., Result]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run file and data; a machine with 4 GiB, and its own state folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(sys, "path", [str(HERE), str(CORE), *sys.path])
    has(monkeypatch, 4 * GIB)
    rows = [f"say {n}\tSAY {n}" for n in range(16)]
    (tmp_path / "data.tsv").write_text("\n".join(rows) + "\n")
    (tmp_path / "run.toml").write_text(RUN)
    return tmp_path


def has(monkeypatch: pytest.MonkeyPatch, memory: int | None, gpu: Device | None = None) -> None:
    processor = Device(type="cpu", name="test core", memory=memory, cores=2)
    there = Machine(processor, (gpu,) if gpu else ())
    monkeypatch.setattr(machine, "detect_machine", lambda: there)


@pytest.fixture
def plan(here: Path) -> Plan:
    def call(*arguments: str) -> Result:
        plugins = [option for file in PLUGINS for option in ("--plugin", file)]
        names = ("lora", "full", "qlora", "preference")
        plugins += [option for name in names for option in ("--no-plugin", name)]
        return CliRunner().invoke(app, [*plugins, "plan", "run.toml", *arguments])

    return call


def answer(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    assert found["schema"] == "tunesmith.plan/1"
    return found


def test_memory_by_phase_and_component(plan: Plan) -> None:
    found = answer(plan("--json"))
    train = found["memory"]["saving"]["train"]
    assert train["components"] == {"weights": 1000 * MIB, "activations": 100_000_000}
    assert train["low"] < train["expected"] == 1000 * MIB + 100_000_000 < train["high"]
    assert found["peak"]["saving"]["phase"] == "train"
    assert found["peak"]["saving"]["component"] == "weights"
    assert found["work"]["saving"]["method"] == "traced"


def test_several_processes_share_the_memory_of_a_cpu(plan: Plan) -> None:
    found = answer(plan("--json", "--processes", "4"))
    assert found["processes"] == 4
    assert found["this_machine"]["available"] == GIB
    assert found["fits"]["saving"]["this machine"] == "no"  # four times 1.1 GiB in 4 GiB
    shown = plan("--processes", "4").stdout
    assert "in each of 4 processes" in shown and "memory of each process" in shown
    assert "1.0 GiB available for each process" in shown
    assert plan("--processes", "0").exit_code == 2


def test_each_process_has_a_gpu_of_its_own(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    has(monkeypatch, 4 * GIB, Device(type="cuda", name="a GPU", memory=24 * GIB))
    found = answer(plan("--json", "--processes", "4"))
    assert found["this_machine"]["available"] == 24 * GIB


def test_times_on_a_busy_machine_are_explained(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_time.os, "getloadavg", lambda: (1.0, 1.0, 1.0))
    assert "other programs" not in plan().stdout
    monkeypatch.setattr(run_time.os, "getloadavg", lambda: (9.0, 1.0, 1.0))
    assert "up to 5.0 times as long as on an idle machine" in " ".join(plan().stdout.split())


def test_quick_prints_the_analytic_estimate(plan: Plan) -> None:
    found = answer(plan("--json", "--quick"))
    assert found["work"]["saving"]["method"] == "analytic"
    assert "half of it is a guess" in found["notes"]


def test_the_resolved_plan_is_printed(plan: Plan, here: Path) -> None:
    import tomllib

    resolved = plan("--resolved")
    assert tomllib.loads(resolved.stdout)["technique"]["weights"] == 1000
    assert answer(plan("--json"))["plan"]["technique"]["weights"] == 1000
    assert answer(plan("--resolved", "--json"))["plan"]["technique"]["weights"] == 1000


def test_assumptions_replace_the_data(plan: Plan, here: Path) -> None:
    (here / "data.tsv").unlink()
    refused = plan()
    assert refused.exit_code == 3
    assert "--assume sequence=1024" in refused.stderr
    assumed = "sequence=4_096,micro_batch=2"
    found = answer(plan("--assume", assumed, "--assume", "rows=10000", "--json"))
    assert found["work"]["saving"]["longest_row"] == 4096
    assert found["work"]["saving"]["micro_batch_tokens"] == 8192
    assert found["work"]["saving"]["tokens"] == 40_960_000
    assert found["device"] == "cuda"  # assumed data cannot run here


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sequenc=4", "did you mean sequence?"),
        ("rows=none", "positive integer"),
        ("rows=0", "positive integer"),
        ("rows", "positive integer"),
        ("rows=-5", "positive integer"),
    ],
)
def test_invalid_assumptions(plan: Plan, text: str, message: str) -> None:
    result = plan("--assume", text)
    assert result.exit_code == 2
    assert message in result.stderr


def test_all_techniques_with_estimates_are_compared(plan: Plan) -> None:
    found = answer(plan("--json", "--set", "technique.weights=2000"))
    assert set(found["fits"]) == {"saving", "wide", "failing-later"}
    assert found["fits"]["wide"] == {
        "24": "yes", "40": "yes", "48": "yes", "80": "yes", "141": "yes", "this machine": "no",
    }  # fmt: skip
    assert "width of what?" in found["unknown"]["failing"]
    assert "needy" not in found["unknown"]  # has no estimate and was not chosen


def test_options_are_transferred_where_they_are_valid(plan: Plan) -> None:
    found = answer(plan("--json", "--set", "technique.weights=500", "--set", "technique.shards=4"))
    wide = found["memory"]["wide"]["load"]["expected"]
    assert wide == 500 * MIB * 10  # its own shards: 4 is not valid there


def test_a_failed_trace_leaves_the_analytic_estimate(plan: Plan) -> None:
    found = answer(plan("--json", "--set", "technique.use=failing-later"))
    work = found["work"]["failing-later"]
    assert work["method"] == "analytic"
    assert "no trace" in work["notes"][-1]


def test_a_failing_estimate_of_the_chosen_technique_names_its_plugin(plan: Plan) -> None:
    result = plan("--set", "technique.use=failing")
    assert result.exit_code == 8
    assert "memory-saving-plugin" in result.stderr or "memory_saving_plugin" in result.stderr


def test_a_technique_without_estimate_is_named(plan: Plan) -> None:
    result = plan("--set", "technique.use=by-heart", "--quick")
    assert result.exit_code == 0, result.output
    assert "by-heart does not estimate its memory and time" in result.stdout
    assert "saving" in result.stdout


def test_a_model_without_config(plan: Plan) -> None:
    result = plan("--set", "model.base=paper:late")
    assert result.exit_code == 4
    assert "config.json" in result.stderr


@pytest.mark.parametrize(
    ("memory", "fits"), [(4 * GIB, "yes"), (1000 * MIB, "maybe"), (900 * MIB, "no")]
)
def test_yes_maybe_no(plan: Plan, monkeypatch: pytest.MonkeyPatch, memory: int, fits: str) -> None:
    has(monkeypatch, memory)
    sets = ("--set", "technique.weights=900", "--json")
    assert answer(plan(*sets))["fits"]["saving"]["this machine"] == fits


def test_changes_that_make_it_fit_are_listed_cheapest_first(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 1060 * MIB)
    found = answer(plan("--json"))["memory_savings"]
    assert [saving["changes"] for saving in found] == [
        ["technique.gradient_checkpointing = true"],
        ["technique.shards = 2"],
        ["technique.shards = 4"],
    ]
    assert all(saving["enough"] for saving in found)
    assert abs(found[0]["saves"] - 75_000_000) < 1000


def test_changes_that_are_only_enough_in_combination(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 300 * MIB)
    first, *others = answer(plan("--json"))["memory_savings"]
    assert first["changes"] == [
        "technique.gradient_checkpointing = true", "technique.shards = 4",
    ], "the smallest combination: shards = 2 is needless"  # fmt: skip
    assert first["enough"] and first["high"] <= 300 * MIB
    assert not any(saving["enough"] for saving in others)


def test_the_largest_savings_are_listed_if_no_change_is_enough(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    has(monkeypatch, 10 * MIB)
    found = answer(plan("--json"))["memory_savings"]
    assert found[0]["changes"] == ["technique.shards = 4"]
    assert not any(saving["enough"] for saving in found)


def test_time_and_cost_are_ranges_from_the_table(plan: Plan) -> None:
    found = answer(plan("--json", "--assume", "rows=100000"))
    flops = found["work"]["saving"]["flops"]
    time, cost = found["time"]["saving"]["A100 80GB"], found["cost"]["saving"]["A100 80GB"]
    steps = found["work"]["saving"]["steps"]
    assert time["low"] == pytest.approx(flops / (312e12 * 0.55) + steps * 0.01)
    assert time["high"] == pytest.approx(flops / (312e12 * 0.15) + steps * 0.1)
    assert cost["low"] == pytest.approx(time["low"] / 3600 * 1.19)
    assert cost["high"] == pytest.approx(time["high"] / 3600 * 3.43)
    assert all(p["date"] and p["source"] for gpu in found["gpus"] for p in gpu["prices"])


def test_user_prices_replace_those_of_the_table(plan: Plan, here: Path) -> None:
    text = (
        '[[prices]]\ngpu = "L4"\nprovider = "our cellar"\nusd = 0.01\n'
        'source = "invoice"\ndate = "2030-01-01"\n'
    )
    (here / "ours.toml").write_text(text)
    found = answer(plan("--json", "--set", "estimate.prices=ours.toml"))
    by_name = {gpu["name"]: gpu["prices"] for gpu in found["gpus"]}
    assert [price["provider"] for price in by_name["L4"]] == ["our cellar"]
    assert len(by_name["H100"]) > 1
    shown = plan("--set", "estimate.prices=ours.toml", "--quick")
    assert "2030-01-01" in shown.stdout and "ours.toml" in shown.stdout
    (here / "config" / "tunesmith").mkdir(parents=True)
    (here / "config" / "tunesmith" / "prices.toml").write_text(text.replace("cellar", "roof"))
    assert "our roof" in plan("--json").stdout


@pytest.mark.parametrize(
    ("name", "hint"),
    [("A100 80 GB", 'did you mean "A100 80GB"?'), ("B300", "GPUs: A10, A100 40GB")],
)
def test_a_price_of_an_unknown_gpu_is_refused(plan: Plan, here: Path, name: str, hint: str) -> None:
    price = f'[[prices]]\ngpu = "{name}"\nprovider = "ours"\nusd = 1.0\nsource = "x"\ndate = "y"\n'
    (here / "ours.toml").write_text(
        '[[prices]]\ngpu = "L4"\nprovider = "ours"\nusd = 0.5\nsource = "x"\ndate = "y"\n' + price
    )
    result = plan("--set", "estimate.prices=ours.toml", "--quick")
    assert result.exit_code == 2
    assert (
        f"ours.toml: prices.1.gpu: unknown GPU `{name}`" in result.output and hint in result.output
    )
    gpu = (
        f'[[gpus]]\nname = "{name}"\nclass = 80\ntotal_gib = 79.0\nbf16_tflops = 300\n'
        'utilization = [0.2, 0.5]\nsource = "x"\ndate = "y"\n'
    )
    (here / "ours.toml").write_text(price + gpu)  # one of its own
    assert plan("--set", "estimate.prices=ours.toml", "--quick").exit_code == 0


@pytest.mark.parametrize("text", ["[[prices]\n", '[[prices]]\ngpu = "L4"\n', "[[cards]]\n"])
def test_invalid_prices(plan: Plan, here: Path, text: str) -> None:
    (here / "ours.toml").write_text(text)
    result = plan("--set", "estimate.prices=ours.toml")
    assert result.exit_code == 2
    assert "ours.toml" in result.stderr


def test_a_missing_price_file(plan: Plan) -> None:
    assert plan("--set", "estimate.prices=nowhere.toml").exit_code == 2


def test_auto_means_the_gpu_of_this_machine(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Device(type="cuda", name="NVIDIA H100 80GB HBM3", memory=70 * GIB)
    has(monkeypatch, 4 * GIB, gpu)
    found = answer(plan("--json"))
    assert found["device"] == "cuda"
    assert found["this_machine"]["name"] == gpu.name
    assert "this machine" in found["time"]["saving"]
    assert answer(plan("--json", "--set", "run.device=cpu"))["device"] == "cpu"


def test_text_output(plan: Plan) -> None:
    lines = plan("--quick").stdout.splitlines()
    assert lines[0] == "saving on model on paper, plain, for test core (analytic)"
    assert any(line.startswith("train (peak)") for line in lines)
    (row,) = (line for line in lines if line.startswith("saving *") and "yes" in line)
    assert row.split()[2:] == ["0.75", "to", "1.4", "yes", "yes", "yes", "yes", "yes", "yes"]
    assert any("2 cores, 4.0 GiB available" in line for line in lines)
    assert any("are from 2026-03 to" in line for line in lines)


def test_without_a_terminal_both_estimates_are_printed(plan: Plan) -> None:
    text = plan().stdout
    assert (
        text.index("(analytic)") < text.index("tracing the training step") < text.index("(traced)")
    )


def test_a_model_without_weights_is_planned_but_not_run(plan: Plan, here: Path) -> None:
    assert answer(plan("--json", "--set", "model.base=paper:empty"))["device"] == "cuda"
    arguments = [option for file in PLUGINS for option in ("--plugin", file)]
    run = ["run", "run.toml", "--set", "model.base=paper:empty"]
    result = CliRunner().invoke(app, [*arguments, *run])
    assert result.exit_code == 4
    assert "there are no weights" in result.stderr and "tunesmith plan" in result.stderr
    assert not (here / "runs").exists()


def test_the_environment_is_unchanged(plan: Plan, here: Path) -> None:
    before = dict(os.environ)
    answer(plan("--json"))
    assert dict(os.environ) == before
    assert sorted(path.name for path in here.iterdir()) == ["data.tsv", "run.toml"]


def test_the_whole_run_is_the_sum_of_its_parts(plan: Plan) -> None:
    sets = ("--set", "run.device=cpu", "--quick")
    found = answer(plan("--json", *sets))["run_time"]
    assert list(found) == ["baselines", "training", "evaluation"]
    assert all(0 <= part["low"] < part["high"] for part in found.values())
    without = answer(plan("--json", *sets, "--set", "baselines.use=[]"))["run_time"]
    assert list(without) == ["training", "evaluation"]
    lines = plan(*sets).stdout.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("whole run"))
    assert [line.split()[0] for line in lines[start + 2 : start + 6]] == [*found, "total"]
    assumed = ("--assume", "sequence=8,micro_batch=1,rows=9")
    assert answer(plan("--json", *sets, *assumed))["run_time"] == {}
