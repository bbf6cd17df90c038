"""Signals, limits, bad losses, and inputs that changed before a run is resumed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tomli_w
import torch
from safetensors.torch import load_file, save_file

from tunesmith.storage import Checkpoints, verify_folder
from tunesmith_data.load import RowLoader
from tunesmith_torch.generation.text_model import TorchTextModel
from tunesmith_torch.models.adapters import AdaptedModel
from tunesmith_torch.training import loop, stored_tensors, training_state
from tunesmith_torch.training.supervised import SupervisedTask

pytestmark = pytest.mark.processes

PHASES: dict[str, tuple[Any, str, int]] = {
    "data preparation": (RowLoader, "load", 1),
    "evaluation": (TorchTextModel, "score", 1),
    "training": (loop._GradientAccumulator, "compute_gradient", 4),
    "saving": (stored_tensors, "save_file", 2),
}
SIGNALS = {
    "SIGINT": ((signal.SIGINT,), 130),
    "SIGTERM": ((signal.SIGTERM,), 143),
    "SIGHUP": ((signal.SIGHUP, signal.SIGHUP), 129),
    "SIGUSR1": ((signal.SIGUSR1,), 128 + signal.SIGUSR1),
    "SIGINT twice": ((signal.SIGINT, signal.SIGINT), 130),
}


def send_signals(*numbers: int) -> Callable[[], None]:
    def send() -> None:
        for number in numbers:
            os.kill(os.getpid(), number)
            time.sleep(0.001)  # handlers run between two instructions of the interpreter

    return send


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("sent", SIGNALS)
@pytest.mark.parametrize("technique", ["lora", pytest.param("qlora", marks=pytest.mark.faults)])
def test_a_signal_in_any_phase(
    faults: Any, real: Any, workshop: Any, phase: str, sent: str, technique: str
) -> None:
    """One signal: stop after the step, with a checkpoint and a resume command. Two: immediately."""
    setting = real.Setting(technique)
    complete = real.collect_results(workshop.complete_run(setting))
    run = workshop.folder / "signaled" / "run"
    shutil.rmtree(run, ignore_errors=True)
    numbers, code = SIGNALS[sent]
    stop = real.before_call(*PHASES[phase], send_signals(*numbers))
    end = real.run_command("run", workshop.run_file(setting), "--out", run, prepare=stop)
    assert end.code == code, end.output
    assert "stopping after this step" in end.output
    steps = [event["step"] for event in real.events(run, "step-finished")]
    newest = Checkpoints(run / "checkpoints").newest(recover=False)
    if code != 130 or len(numbers) == 1:
        assert f"continue with: tunesmith resume {run}" in end.output
        assert (newest.step if newest else 0) == (steps[-1] if steps else 0)
        assert json.loads((run / "report.json").read_text())["run"]["exit_code"] == code
    elif phase in ("training", "saving"):
        assert newest is not None
        assert newest.step == 2
        assert verify_folder(newest.path) == []
    resumed = real.run_command("resume", run)
    assert resumed.code == 0, resumed.output
    assert real.collect_results(run) == complete
    faults.count_trials(f"{sent} in {phase} ({technique})")


def test_another_process_resumes_to_identical_results(
    faults: Any, real: Any, workshop: Any, tmp_path: Path
) -> None:
    """Processes with different hash seeds: stopped by a real SIGINT, resumed by another one."""
    setting = real.Setting(micro_batch_tokens=60, epochs=8)
    run = tmp_path / "run"
    started = _process(1, "run", workshop.run_file(setting), "--out", run)
    while len(real.events(run, "step-finished")) < 3 and started.poll() is None:
        time.sleep(0.005)
    started.send_signal(signal.SIGINT)
    output, _ = started.communicate(timeout=60)
    assert started.returncode == 130, output
    resumed = _process(2, "resume", run)
    output, _ = resumed.communicate(timeout=100)
    assert resumed.returncode == 0, output
    assert real.collect_results(run) == real.collect_results(workshop.complete_run(setting))
    faults.count_trials("stopped and resumed by separate interpreters")


def _process(seed: int, *args: str | Path) -> subprocess.Popen[str]:
    program = "from tunesmith_cli.app import app; app()"
    return subprocess.Popen(
        [sys.executable, "-c", program, *map(str, args)],
        env={**os.environ, "PYTHONHASHSEED": str(seed)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_time_limit_exits_with_75(faults: Any, real: Any, workshop: Any) -> None:
    setting = real.Setting()
    run = workshop.folder / "limited" / "run"
    file = workshop.run_file(setting)
    end = real.run_command("run", file, "--out", run, "--set", "run.max_minutes=0.001")
    codes = [end.code]
    assert "tunesmith resume" in end.output
    while codes[-1] == 75 and len(codes) < 40:
        codes.append(real.run_command("resume", run).code)
    assert codes[0] == 75
    assert codes[-1] == 0
    assert real.collect_results(run) == real.collect_results(workshop.complete_run(setting))
    faults.count_trials("stopped by max_minutes, exit 75, resumed", len(codes) - 1)


# --- losses ----------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["forward", "backward"])
@pytest.mark.parametrize("micro", [60, 4096], ids=["one micro-batch of several", "the whole batch"])
def test_a_loss_that_is_not_finite_exits_with_5_and_a_diagnosis(
    faults: Any, real: Any, workshop: Any, where: str, micro: int
) -> None:
    setting = real.Setting(micro_batch_tokens=micro)
    at = 17 if micro == 60 else 4

    def change(loss: Any, call: int) -> Any:
        if call != at:
            return loss
        return loss * float("nan") if where == "forward" else loss + (loss - loss.detach()) * 1e39

    run = workshop.folder / "faulty" / "run"
    shutil.rmtree(run, ignore_errors=True)
    file = workshop.run_file(setting)
    end = real.run_command("run", file, "--out", run, prepare=real.with_changed_loss(change))
    assert end.code == 5, end.output
    assert "not finite" in end.output
    diagnosis = json.loads((run / "postmortem.json").read_text())
    steps = real.events(run, "step-finished")
    assert diagnosis["step"] == len(steps) + 1
    assert diagnosis["rows"]
    assert diagnosis["last_good_checkpoint"] == f"step-{len(steps) // 2 * 2:08d}"
    assert diagnosis["learning_rate"] > 0
    resumed = real.run_command("resume", run)
    assert resumed.code == 0, resumed.output
    assert real.collect_results(run) == real.collect_results(workshop.complete_run(setting))
    faults.count_trials("NaN or infinity: exit 5, nothing updated, resumed")


def freeze_all_weights() -> None:
    adapt = SupervisedTask.adapt

    def frozen(self: SupervisedTask, *args: Any) -> AdaptedModel:
        adapted = adapt(self, *args)
        adapted.model.requires_grad_(False)
        return adapted

    SupervisedTask.adapt = frozen  # type: ignore[method-assign]


FAULTS: dict[str, tuple[dict[str, Any], Any, str]] = {
    "diverges": ({}, lambda loss, call: loss * call, "diverged"),
    "zero": ({}, lambda loss, call: loss * 0.0, "did not change"),
    "constant": ({}, lambda loss, call: loss - loss.detach(), "did not change"),
    "no gradient": ({}, lambda loss, call: loss.detach() + 0.0 * loss, "every gradient was zero"),
    "nothing is trained": ({}, freeze_all_weights, "the model has no trainable parameters"),
    "nothing carries loss": (
        {"max_length": 8, "max_skipped": 1.0},
        None,
        "no rows can be used",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_useless_training_is_reported_within_twenty_steps(
    faults: Any, real: Any, workshop: Any, fault: str
) -> None:
    changes, change, message = FAULTS[fault]
    prepare = change if change in (None, freeze_all_weights) else real.with_changed_loss(change)
    run = workshop.folder / "useless" / "run"
    shutil.rmtree(run, ignore_errors=True)
    file = workshop.run_file(real.Setting("full", epochs=20), **changes)
    end = real.run_command("run", file, "--out", run, prepare=prepare)
    assert end.code == (3 if fault == "nothing carries loss" else 5), end.output
    assert message in end.output
    first_bad_step = 3 if fault == "diverges" else 0
    assert len(real.events(run, "step-finished")) <= 20 + first_bad_step
    faults.count_trials("useless training reported within twenty steps")


# --- changed inputs ---------------------------------------------------------------------------


def _edit(run: Path, table: str, key: str, value: Any) -> None:
    tables = tomllib.loads((run / "run.toml").read_text())
    tables[table][key] = value
    (run / "run.toml").write_text(tomli_w.dumps(tables))


def _row(run: Path, folder: Path) -> None:
    path = folder / "rows.jsonl"
    path.write_text(path.read_text().replace("What is 7?", "What is 8?", 1))


def _weights(run: Path, folder: Path) -> None:
    path = folder / "model" / "model.safetensors"
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    next(iter(tensors.values())).view(-1)[0] += 1.0
    save_file(tensors, path, {"format": "pt"})


def _template(run: Path, folder: Path) -> None:
    path = folder / "model" / "chat_template.jinja"
    path.write_text(path.read_text().replace("assistant", "bot"))


CHANGES: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "technique option": (
        lambda run, folder: _edit(run, "technique", "learning_rate", 5e-4),
        "technique.learning_rate was 0.001, is now 0.0005",
    ),
    "seed": (lambda run, folder: _edit(run, "run", "seed", 4), "run.seed was 3, is now 4"),
    "row": (
        _row,
        "the data changed since the run started: "
        "training + validation + test rows were 40 + 0 + 4, are now 40 + 0 + 4",
    ),
    "weights": (_weights, "the base model changed since the run started: model.safetensors"),
    "template": (_template, "the base model changed since the run started: chat_template.jinja"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_changed_inputs_are_refused_reported_and_can_be_accepted(
    faults: Any, real: Any, tmp_path: Path, what: str
) -> None:
    own = real.RunFixtures(tmp_path)
    run = own.interrupted_run(real.Setting())
    change, named = CHANGES[what]
    change(run, tmp_path)
    refused = real.run_command("resume", run)
    assert refused.code == 2, refused.output
    assert named in refused.output
    assert "--accept-changes" in refused.output
    steps = len(real.events(run, "step-finished"))
    # Stopped again: accepted changes need not be accepted a second time.
    stop = real.before_call(training_state, "save_training_state", 1, send_signals(signal.SIGTERM))
    accepted = real.run_command("resume", run, "--accept-changes", prepare=stop)
    assert accepted.code == 143, accepted.output
    assert len(real.events(run, "step-finished")) > steps
    finding, *_ = [e for e in real.events(run, "finding") if e["source"] == "resume"]
    assert finding["message"].startswith(f"resumed although {named.partition(':')[0]}") or (
        named in finding["message"]
    )
    resumed = real.run_command("resume", run)
    assert resumed.code == 0, resumed.output
    faults.count_trials("changed inputs refused, reported, and accepted")


def test_changes_without_effect_are_not_refused(faults: Any, real: Any, workshop: Any) -> None:
    run = workshop.copy(workshop.interrupted_run(real.Setting()))
    _edit(run, "run", "max_minutes", 60)
    _edit(run, "run", "folder", "/elsewhere")
    end = real.run_command("resume", run, "--quiet")
    assert end.code == 0, end.output
    faults.count_trials("a change without effect is not refused")


# --- cost ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "megabytes", [32, pytest.param(1000, marks=pytest.mark.faults)], ids=["short", "long"]
)
def test_the_time_of_saving_a_checkpoint(
    faults: Any, tmp_path_factory: pytest.TempPathFactory, megabytes: int
) -> None:
    """Measured on the disk of the temporary folder, with every flush; printed, not checked."""
    tensor = torch.zeros(megabytes * 250_000)
    folder = tmp_path_factory.mktemp("cost")

    def write(staging: Path) -> None:
        save_file({"state": tensor}, staging / "training.safetensors")

    checkpoints = Checkpoints(folder, keep=1)
    checkpoints.save(0, write)
    started = time.perf_counter()
    checkpoints.save(1, write)
    seconds = time.perf_counter() - started
    started = time.perf_counter()
    assert checkpoints.newest() is not None
    reading = time.perf_counter() - started
    per_gb = 1000 / megabytes
    faults.add_note(
        f"a checkpoint of {megabytes} MB: {seconds * per_gb:.1f} s per GB to save, "
        f"{reading * per_gb:.1f} s per GB to verify"
    )
    shutil.rmtree(folder)
